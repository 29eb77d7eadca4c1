"""The rows of a comparison for people: a table for the terminal, a picture, and a page that holds both."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from chimera.errors import SettingsError
from chimera_compare.figures import Row
from chimera_compare.plan import WAYS, LoadPlan

NONE = "-"
DPI = 80
WIDTH = 0.2
COLOURS = {"sync": "#4e79a7", "async": "#59a14f", "hybrid": "#f28e2b", "monolith": "#9c9c9c"}


class Figure(NamedTuple):
    """One of a table's figures: its heading, and how it is written."""

    head: str
    text: Callable[[Row], str]


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


FIGURES = (
    Figure("pages answered, %", lambda row: _percent(row.availability)),
    Figure("pages with data, %", lambda row: _percent(row.data_availability)),
    Figure("in the trouble: pages answered, %", lambda row: _percent(row.trouble_availability)),
    Figure("in the trouble: pages with data, %", lambda row: _percent(row.trouble_data_availability)),
    Figure("in the trouble: documents shown, %", lambda row: _percent(row.trouble_document_availability)),
    Figure("page p50, ms", lambda row: _number(row.page_p50_ms)),
    Figure("page p99, ms", lambda row: _number(row.page_p99_ms)),
    Figure("owner calls a page", lambda row: f"{row.owner_calls_per_page:.2f}"),
    Figure("keys asked for a page", lambda row: f"{row.owner_keys_per_page:.2f}"),
    Figure("copied, B/s", lambda row: _number(row.copied_bytes_per_s)),
    Figure("owner's answers, B/s", lambda row: _number(row.answer_bytes_per_s)),
    Figure("staleness p50, ms", lambda row: _number(row.staleness_p50_ms)),
    Figure("staleness p99, ms", lambda row: _number(row.staleness_p99_ms)),
)


class Chart(NamedTuple):
    """One of the picture's charts: a figure of each way, by the share of keys known."""

    title: str
    value: Callable[[Row], float | None]


CHARTS = (
    Chart("pages with data, %", lambda row: _times(row.data_availability, 100)),
    Chart("pages with data in the trouble, %", lambda row: _times(row.trouble_data_availability, 100)),
    Chart("owner calls per page", lambda row: row.owner_calls_per_page),
    Chart("page p99, ms", lambda row: row.page_p99_ms),
    Chart("copied + answered, kB/s", lambda row: (row.copied_bytes_per_s + row.answer_bytes_per_s) / 1000),
    Chart("staleness p99, ms", lambda row: row.staleness_p99_ms),
)


def tables(rows: Sequence[Row]) -> list[Table]:
    """For a terminal: a table for each share of known keys, a column for each way."""
    return [
        _table([row for row in rows if row.known == known], known) for known in dict.fromkeys(row.known for row in rows)
    ]


def _table(rows: Sequence[Row], known: float) -> Table:
    table = Table(title=f"{known:.0%} of the keys have a document", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(row.mode, justify="right")
    for figure in FIGURES:
        table.add_row(figure.head, *(figure.text(row) for row in rows))
    return table


def title_of(plan: LoadPlan) -> str:
    """The load in a line."""
    trouble = "no trouble" if plan.trouble == "none" else f"owner {plan.trouble} for {plan.trouble_share:.0%} of it"
    return (
        f"{plan.keys:,} keys, {plan.reads:g} pages/s, {plan.writes:g} writes/s, {plan.seconds:g} s, "
        f"owner latency {1000 * plan.owner_latency:g} ms, budget {1000 * plan.budget:g} ms, {trouble}; "
        f"declared as {plan.declared}"
    )


def check_drawing() -> None:
    """Raises SettingsError where pictures can't be drawn."""
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        raise SettingsError(
            "a picture needs matplotlib: pip install 'chimera-kit[compare]', or ask for --json alone"
        ) from error


def write_report(folder: Path, rows: Sequence[Row], plan: LoadPlan) -> list[Path]:
    """Write the picture, a page that holds it and needs nothing beside it, and the tables as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    png = picture(rows, plan)
    written = {
        "compare.png": png,
        "compare.html": html_page(rows, plan, png).encode(),
        "tables.md": markdown(rows, plan).encode(),
    }
    for name, data in written.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in written]


def picture(rows: Sequence[Row], plan: LoadPlan) -> bytes:
    """A chart for each figure, as PNG."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(12, 6.4), layout="constrained")
    figure.suptitle(title_of(plan), fontsize=10)
    shares = list(dict.fromkeys(row.known for row in rows))
    for chart, axes in zip(CHARTS, figure.subplots(2, 3).flat, strict=True):
        _draw(axes, chart, rows, shares)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(WAYS), frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    return drawn.getvalue()


def _draw(axes: Any, chart: Chart, rows: Sequence[Row], shares: Sequence[float]) -> None:
    for index, way in enumerate(WAYS):
        by_share = {row.known: chart.value(row) for row in rows if row.mode == way}
        places = [place + (index - 1.5) * WIDTH for place in range(len(shares))]
        bars = axes.bar(places, [by_share.get(share) or 0.0 for share in shares], WIDTH, color=COLOURS[way], label=way)
        axes.bar_label(bars, labels=[_label(by_share.get(share)) for share in shares], fontsize=7, padding=1)
    axes.set_title(chart.title, fontsize=10)
    axes.set_xticks(range(len(shares)), [f"{share:.0%} known" for share in shares])
    axes.tick_params(labelsize=8)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def markdown(rows: Sequence[Row], plan: LoadPlan) -> str:
    """The terminal's tables, for a page of Markdown."""
    parts = [f"{title_of(plan)}\n"]
    for known in dict.fromkeys(row.known for row in rows):
        some = [row for row in rows if row.known == known]
        lines = [[f"{known:.0%} known", *(row.mode for row in some)], ["---", *("---:" for _ in some)]]
        lines += [[figure.head, *(figure.text(row) for row in some)] for figure in FIGURES]
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(parts)


def html_page(rows: Sequence[Row], plan: LoadPlan, png: bytes) -> str:
    """Table and picture on one page, without a link to anywhere."""
    heads = _cells("th", ["mode", "known", *(figure.head for figure in FIGURES)])
    cells = [[row.mode, f"{row.known:.0%}", *(figure.text(row) for figure in FIGURES)] for row in rows]
    lines = "\n".join(f"<tr>{_cells('td', each)}</tr>" for each in cells)
    return PAGE.format(title=escape(title_of(plan)), heads=heads, lines=lines, png=base64.b64encode(png).decode())


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _label(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>chimera compare</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ padding: 4px 8px; text-align: right; border-bottom: 1px solid #ddd; }}
th {{ vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>Three ways to borrow, and a monolith</h1>
<p>{title}</p>
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{lines}
</tbody>
</table>
<p><img alt="The same figures as bars" src="data:image/png;base64,{png}"></p>
</body>
</html>
"""
