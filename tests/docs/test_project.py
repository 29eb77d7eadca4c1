"""What a public project's files say of each other is true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.build import build_wheel

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
FOLDERS = ("docs", "examples", "services", "benchmarks")
PAGES = sorted([*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))])
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_newest_entry_of_the_changelog_is_the_version() -> None:
    newest = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert re.fullmatch(rf"{re.escape(VERSION)}, (unreleased|\d{{4}}-\d\d-\d\d)", newest[1])


def test_the_command_line_says_the_version() -> None:
    asked = [Path(sys.executable).parent / "chimera", "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert said == f"chimera, version {VERSION}\n"


def test_the_wheel_has_the_library_and_its_licence_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        info = f"chimera_kit-{VERSION}.dist-info"
        says = wheel.read(f"{info}/METADATA").decode()
        assert "\nLicense-Expression: Apache-2.0\nLicense-File: LICENSE\n" in says
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "chimera/py.typed" in wheel.namelist()
        assert {name.partition("/")[0] for name in wheel.namelist()} == {"chimera", info}


def local_links(page: str) -> Iterator[str]:
    """The files that a page links to, from where it is, and its own headings as `#…`."""
    for target in LINK.findall(CODE.sub("", page)):
        if not re.match(r"[a-z]+:", target):
            yield target


def headings(page: str) -> set[str]:
    """The names under which GitHub shows a page's headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    found = []
    for target in local_links(page.read_text()):
        name, _, heading = target.partition("#")
        there = page.parent / name if name else page
        if not there.exists() or (heading and heading not in headings(there.read_text())):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_pages_local_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One: two\n[a](#one-two) [b](page.md) [c](https://x) `[d](none)` [e](none.md) [f](page.md#no)\n")
    assert broken(page) == ["none.md", "page.md#no"]
