"""The map on the wall: what the pages about the inside name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INTERNALS = ROOT / "docs" / "internals"
STEP = re.compile(r"^\| [^|]+ \| (`[^|]+`) \| (`[^|]+`) \|$", re.MULTILINE)
NAMED = re.compile(r"`([a-z_]+(?:/[a-z_]+)*\.py)`")
MODULE = re.compile(r"`(chimera(?:_[a-z]+)?(?:\.\w+)+)`")


def quoted(cell: str) -> list[str]:
    return [part.strip("`") for part in cell.split(", ")]


def steps() -> list[tuple[str, str]]:
    """Each file of the walk with the function that is named in it; where two files stand, each has its own."""
    found: list[tuple[str, str]] = []
    for files, functions in STEP.findall((INTERNALS / "walk.md").read_text()):
        found += zip(quoted(files), quoted(functions), strict=True)
    return found


def defined(path: Path) -> set[str]:
    """The classes, functions and methods of a file, methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if hasattr(each, "name")}
    return names


@pytest.mark.parametrize(("file", "function"), steps())
def test_the_walk_names_what_is_there(file: str, function: str) -> None:
    assert function in defined(ROOT / "src" / "chimera" / file)


def test_the_walk_is_whole_and_one_page() -> None:
    assert len(steps()) > 35
    assert len((INTERNALS / "walk.md").read_text().splitlines()) < 80


def test_files_that_the_pages_name_are_there() -> None:
    for page in INTERNALS.glob("*.md"):
        missing = [name for name in NAMED.findall(page.read_text()) if not (ROOT / "src" / "chimera" / name).exists()]
        assert not [name for name in missing if not (ROOT / name).exists()], page.name


def test_modules_that_the_pages_name_are_there() -> None:
    for page in INTERNALS.glob("*.md"):
        for name in MODULE.findall(page.read_text()):
            parts = name.split(".")
            paths = [ROOT / "src" / Path(*parts[:count]) for count in range(1, len(parts) + 1)]
            there = [path.is_dir() or path.with_suffix(".py").exists() for path in paths]
            assert all(there[:-1]) or any(path.with_suffix(".py").exists() for path in paths), f"{page.name}: {name}"


def test_tests_that_the_guarantees_name_are_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "docs" / "guarantees.md").read_text())
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
