"""The page of threats names tests and pages that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threats.md"


def test_each_threat_is_shown_by_tests_that_there_are() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "shown by" not in line]
    assert len(rows) > 20
    for row in rows:
        shown = row.rstrip("| ").rpartition("|")[2]
        named = re.findall(r"`(tests/[\w/.]+)`", shown)
        assert named or "scenario" in shown, row
        assert [each for each in named if not (ROOT / each).exists()] == []
