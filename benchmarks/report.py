"""What was measured: results.json, a table, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.goals import judged, times_as_good
from benchmarks.harness import Row


def write(folder: Path, rows: Sequence[Row]) -> None:
    """Put the rows in place of those of the same case into results.json; results.md and the picture show all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    known = [Row(**each) for each in json.loads(path.read_text())] if path.exists() else []
    measured = {(row.group, row.case, row.engine) for row in rows}
    kept = [row for row in known if (row.group, row.case, row.engine) not in measured]
    merged = sorted([*kept, *rows], key=lambda row: row.group)
    path.write_text("[\n" + ",\n".join(json.dumps(row._asdict(), ensure_ascii=False) for row in merged) + "\n]\n")
    (folder / "results.md").write_text(f"{page(merged)}\n")
    draw(folder / "results.png", merged)


def page(rows: Sequence[Row]) -> str:
    """The goals, and everything that was measured, as Markdown."""
    return f"# What has to be reached\n\n{judged(rows)}\n\n# What was measured\n\n{table(rows)}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: each beside ours, with how many times ours is better."""
    lines = [
        "| group | case | engine | subject | median | low to high | unit | ours is better by | stolen |",
        "|---|---|---|---|--:|--:|---|--:|--:|",
    ]
    for row in rows:
        cells = [row.group, row.case, row.engine, row.subject, _figure(row.median)]
        cells += [f"{_figure(row.low)} to {_figure(row.high)}", row.unit, _times(row, rows), f"{row.stolen:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _times(row: Row, rows: Sequence[Row]) -> str:
    place = (row.group, row.case, row.engine, row.unit)
    ours = [
        each for each in rows if (each.group, each.case, each.engine, each.unit) == place and each.subject == "chimera"
    ]
    if row.subject == "chimera" or not ours or not row.median or not ours[0].median:
        return ""
    return f"{times_as_good(ours[0], row):.2f}"


def draw(path: Path, rows: Sequence[Row]) -> None:
    """One panel per group and unit: bars on a logarithmic scale, with their spread."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = sorted({(row.group, row.unit) for row in rows})
    heights = [sum((row.group, row.unit) == panel for row in rows) + 2 for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(11, 0.19 * sum(heights) + len(panels) * 0.5), height_ratios=heights, squeeze=False
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        shown = [row for row in rows if (row.group, row.unit) == panel][::-1]
        colours = [
            {"chimera": "#1b7f5c", "limit": "#8a8a8a"}.get(row.subject.partition(",")[0], "#d9a441") for row in shown
        ]
        spread = [[row.median - row.low for row in shown], [row.high - row.median for row in shown]]
        axis.barh(range(len(shown)), [row.median for row in shown], color=colours, xerr=spread, ecolor="#333333")
        axis.set_yticks(range(len(shown)), [f"{row.case}, {row.engine}: {row.subject}" for row in shown], fontsize=6)
        axis.set_xscale("log")
        axis.set_title(f"{panel[0]}, {panel[1]}", fontsize=9, loc="left")
        axis.tick_params(axis="x", labelsize=7)
        axis.margins(y=0.01)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
