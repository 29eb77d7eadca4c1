"""What a public project's files say of each other is true."""

from __future__ import annotations

import re
import shutil
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
GITHUB = ROOT / ".github"
SCHEMAS = {
    "workflows/ci.yml": "vendor.github-workflows",
    "workflows/release.yml": "vendor.github-workflows",
    "dependabot.yml": "vendor.dependabot",
    "ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    "ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    "ISSUE_TEMPLATE/feature.yml": "vendor.github-issue-forms",
}
FOLDERS = ("docs", "examples", "services", "benchmarks")
PAGES = sorted(
    [*ROOT.glob("*.md"), *GITHUB.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))]
)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_newest_entry_of_the_changelog_is_the_version() -> None:
    newest = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert re.fullmatch(rf"{re.escape(VERSION)}, (unreleased|\d{{4}}-\d\d-\d\d)", newest[1])


def test_the_command_line_says_the_version() -> None:
    asked = [str(Path(sys.executable).parent / "chimera"), "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert said == f"chimera, version {VERSION}\n"


RUNNING = ["aiohttp", "click", "httptools", "msgspec", "multipart", "prometheus-client", "pyjwt", "rich", "uvicorn"]
RUNNING += ["uvloop"]
"""What a service needs to run, and its operators to look after it: all that comes without an extra."""


def test_the_wheel_has_the_library_what_stands_beside_it_the_licence_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        info = f"chimera_kit-{VERSION}.dist-info"
        says = wheel.read(f"{info}/METADATA").decode()
        assert "\nLicense-Expression: Apache-2.0\nLicense-File: LICENSE\n" in says
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "chimera/py.typed" in wheel.namelist()
        packages = {path.name for path in (ROOT / "src").iterdir() if (path / "__init__.py").exists()}
        assert {name.partition("/")[0] for name in wheel.namelist()} == {*packages, info}
        required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", says, re.MULTILINE)
        assert required == RUNNING


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


def trouble(path: Path, schema: str) -> str:
    """What is wrong with a file by a schema that check-jsonschema brings, so that nothing is downloaded."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_each_file_for_github_has_a_schema() -> None:
    assert {str(path.relative_to(GITHUB)) for path in GITHUB.rglob("*.yml")} == SCHEMAS.keys()


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_for_github_follows_its_schema(name: str) -> None:
    assert trouble(GITHUB / name, SCHEMAS[name]) == ""


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name.startswith("workflows")])
def test_every_job_has_a_limit_of_time(name: str) -> None:
    assert trouble(GITHUB / name, "custom.github-workflows-require-timeout") == ""


def test_a_workflow_that_does_not_follow_its_schema_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "ci.yml"
    wrong.write_text((GITHUB / "workflows" / "ci.yml").read_text().replace("runs-on:", "run-on:"))
    assert "runs-on" in trouble(wrong, "vendor.github-workflows")


def test_the_pythons_that_are_tested_are_those_of_the_classifiers() -> None:
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    matrix = re.search(r"python: \[(.*)\]", (GITHUB / "workflows" / "ci.yml").read_text())
    assert matrix
    assert re.findall(r"[\d.]+", matrix[1]) == classified


@pytest.mark.parametrize("path", [*GITHUB.rglob("*.yml"), *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_said_to_be_made_can_be_made(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|run: |CI |^    )make ([a-z-]+)", path.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize(
    ("tag", "entry", "released"),
    [
        ("v1.2.3", "1.2.3, 2026-01-31", True),
        ("v1.2.4", "1.2.3, 2026-01-31", False),
        ("1.2.3", "1.2.3, 2026-01-31", False),
        ("v1.2.3", "1.2.3, unreleased", False),
        ("v1.2.3", "1.2.2, 2026-01-31", False),
    ],
)
def test_a_tag_is_released_where_it_is_the_version_and_the_changelog_has_its_date(
    tmp_path: Path, tag: str, entry: str, released: bool
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "tag", tmp_path / ".ci")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {entry}\n\n- x\n\n## 1.2.1, 2025-01-31\n")
    ran = subprocess.run(["bash", tmp_path / ".ci" / "tag", tag], capture_output=True, text=True, check=False)
    assert (ran.returncode == 0) == released, ran.stdout + ran.stderr
    assert (ran.stdout == "") == released
