"""The structure of a checkout in figures, beside an earlier checkout and beside the goals.

    python tools/house.py [ROOT] [--against OTHER_ROOT] [--json] [--chain]

The import packages are the folders in `src/` with an `__init__.py`; `chimera` is the library.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from structure.figures import ALL, CHAIN, LIBRARY, LONG_FILE, MANY_PARAMETERS, Figures, measure

WIDTH = 120
LISTED = (
    f"files over {LONG_FILE} lines{ALL}",
    f"class names twice{ALL}",
    "import cycles, types too",
    "package cycles, types too",
    f"functions with over {MANY_PARAMETERS} parameters",
)
GOALS = {
    "files": "≤ 130",
    "lines": "≤ 21,000",
    "largest file": "≤ 500",
    "names in the root folder": "≤ 24",
    "names in the fullest other folder": "≤ 12",
    "levels of folders": "3",
    CHAIN: "≤ 17",
    "import cycles": "0",
    "import cycles, types too": "0",
    "package cycles": "0",
    "package cycles, types too": "0",
    "Any": "≤ 250",
    "class names twice": "0",
    f"class names twice{ALL}": "0",
    "port Log": "5",
    "port Store": "5",
    "port Session": "4",
    "port WriteSession": "4",
    "port ViewStore": "≤ 7",
    "port Owner": "≤ 7",
    "undocumented, in what others import": "0",
    "constants patched by tests": "0",
}


def table(columns: Mapping[str, Figures]) -> str:
    """The figures of each column, and the goals, by label."""
    given: list[Mapping[str, object]] = [*columns.values(), GOALS]
    labels = dict.fromkeys(label for each in given for label in each)
    rows = [["", *columns, "goal"]]
    for label in labels:
        values = [str(figures[label]) if label in figures else "-" for figures in columns.values()]
        rows.append([label, *values, GOALS.get(label, "")])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_json(columns: Mapping[str, Figures]) -> str:
    """The same for a program, with all that was counted."""
    figures = {name: {label: figure._asdict() for label, figure in column.items()} for name, column in columns.items()}
    return json.dumps({**figures, "goal": GOALS}, indent=2, ensure_ascii=False)


def lists(figures: Figures, labels: Sequence[str]) -> str:
    """The things counted for these figures, each list below the table."""
    counted = [(label, ", ".join(figures[label].items)) for label in labels if figures[label].items]
    return "".join(f"\n{textwrap.fill(f'{label}: {items}', WIDTH)}\n" for label, items in counted)


def arguments() -> argparse.Namespace:
    """The words of the command line; ends the program where a folder is no checkout."""
    parser = argparse.ArgumentParser(prog="tools/house.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1], help="a checkout; this one")
    parser.add_argument("--against", type=Path, metavar="OTHER_ROOT", help="an earlier checkout, shown before it")
    parser.add_argument("--json", action="store_true", help="everything that was counted, by name")
    parser.add_argument("--chain", action="store_true", help="the modules of the longest import chain as well")
    given = parser.parse_args()
    for root in (given.root, given.against):
        if root and not (root / "src" / LIBRARY / "__init__.py").is_file():
            parser.error(f"{root} is no checkout: it has no src/{LIBRARY}/__init__.py")
    return given


def main() -> None:
    """Measure, and print."""
    given = arguments()
    before = {"before": measure(given.against)} if given.against else {}
    columns = {**before, "now": measure(given.root)}
    if given.json:
        print(as_json(columns))
    else:
        print(table(columns))
        print(lists(columns["now"], (*LISTED, CHAIN) if given.chain else LISTED), end="")


if __name__ == "__main__":
    main()
