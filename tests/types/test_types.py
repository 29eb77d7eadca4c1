"""Two type checkers find the mistakes in `mistakes.py`, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISTAKES = Path(__file__).with_name("mistakes.py")
WRONG = {number for number, line in enumerate(MISTAKES.read_text().splitlines(), 1) if line.endswith("# wrong")}


def run(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_mypy_finds_each_mistake_and_no_other() -> None:
    said = run("mypy", "--strict", "--hide-error-context", "--no-error-summary", "--config-file=", str(MISTAKES))
    lines = [re.match(r".*mistakes\.py:(\d+): error: (.*)", line) for line in said.splitlines()]
    assert {int(line[1]) for line in lines if line} == WRONG, said


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_pyright_finds_each_mistake_and_no_other(tmp_path: Path) -> None:
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(
        json.dumps({"include": [str(MISTAKES)], "extraPaths": [str(ROOT / "src")], "typeCheckingMode": "standard"})
    )
    found = json.loads(run("basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(settings)))
    errors = [each for each in found["generalDiagnostics"] if each["severity"] == "error"]
    assert {each["range"]["start"]["line"] + 1 for each in errors} == WRONG, errors
