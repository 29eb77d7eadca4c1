"""What every command takes: where the engines are; what shells complete; what fits on a narrow terminal."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import chimera
from chimera.cli.main import main
from tests.adapters.services import url_of

CONFIG = Path(__file__).parents[1] / "run" / "hosted" / "chimera.toml"
MARKETPLACE = Path(__file__).parents[2] / "chimera.toml"
WITHOUT = {"new", "add", "names", "completion", "deploy", "compare", "advise", "simulate", "contract", "key", "token"}
"""Commands that ask no engine, or ask running services over HTTP."""


def commands(group: click.Group, named: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{named}{name} ")
        else:
            yield named + name, command


def invoked(*words: str, config: Path = CONFIG, **env: str) -> Result:
    return CliRunner(env=env).invoke(main, ["--config", str(config), *words], prog_name="chimera")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place where the services have run."""

    async def run() -> None:
        async with chimera.asgi(CONFIG).lifespan():
            pass

    with monkeypatch.context() as patched:
        patched.setenv("CHIMERA_STATE", str(tmp_path / "state"))
        asyncio.run(run())
    return tmp_path / "state"


def test_every_command_that_asks_engines_is_told_where_they_are() -> None:
    placed = {name for name, command in commands(main) if {"state", "url"} <= {each.name for each in command.params}}
    others = {name for name, _ in commands(main)} - placed
    assert {name.partition(" ")[0] for name in others} == WITHOUT
    assert {"up", "parked list", "status", "check"} <= placed


LOOKS = ["status", "retention", "audit", "parked list", "parked retry --all", "recover kiosk", "rebuild kiosk sales"]
LOOKS += ["rebuild kiosk --reserved"]


@pytest.mark.parametrize("words", LOOKS)
def test_of_a_place_where_nothing_has_run_that_is_said_and_nothing_is_made_there(words: str, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    looked = invoked(*words.split(), "--state", str(nowhere))
    of_one = "kiosk" in words and "recover" not in words
    who = "kiosk has never" if of_one else "no service has"
    assert (looked.exit_code, looked.stdout, looked.stderr) == (
        2,
        "",
        f"chimera: {who} run on sqlite:///{nowhere}/kiosk.db; say where: --state FOLDER, or --url store=URL\n",
    )
    assert not nowhere.exists()


def test_an_empty_folder_and_an_empty_file_are_places_where_nothing_has_run(tmp_path: Path) -> None:
    (tmp_path / "kiosk.db").touch()
    looked = invoked("parked", "list", "--state", str(tmp_path))
    assert looked.exit_code == 2
    assert "no service has run on" in looked.stderr


def test_a_database_where_nothing_has_run_is_no_place_either() -> None:
    database = f"{url_of('postgresql')}?schema=never_used"
    looked = invoked("parked", "list", "kiosk", "--url", f"store={database}", "--url", "views=memory://")
    assert looked.exit_code == 2
    assert "kiosk has never run on postgresql://" in looked.stderr


def test_where_services_have_run_nothing_is_parked(state: Path) -> None:
    assert invoked("parked", "list", "--state", str(state)).stdout == "nothing is parked\n"
    assert invoked("parked", "list", "--url", f"store=sqlite:///{state}/{{service}}.db").stdout == "nothing is parked\n"
    assert invoked("status", "--state", str(state), COLUMNS="80").exit_code == 0


def test_the_place_of_one_service_is_told_by_its_name(state: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.db"
    (state / "kiosk.db").rename(moved)
    looked = invoked("parked", "list", "kiosk", "--state", str(state), "--url", f"kiosk.store=sqlite:///{moved}")
    assert looked.stdout == "nothing is parked\n"


@pytest.mark.parametrize("typed", ["store", "stor=sqlite:///x", "=sqlite:///x", "store="])
def test_a_place_that_is_none_is_one_line(typed: str) -> None:
    looked = invoked("status", "--url", typed)
    looks = "it looks like --url store=postgresql://…, or --url shop.store=…; see: chimera status --help"
    assert (looked.exit_code, looked.stderr) == (2, f"chimera: Invalid value for '--url': {typed}: {looks}\n")


def test_nothing_is_wider_than_a_narrow_terminal_and_no_name_is_cut(state: Path, tmp_path: Path) -> None:
    for words in ("status", "retention", "check"):
        shown = invoked(words, "--state", str(state), COLUMNS="80").stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert "…" not in shown


def test_what_is_reserved_is_made_anew_by_a_command_that_takes_no_view(state: Path) -> None:
    made = invoked("rebuild", "kiosk", "--reserved", "--json", "--state", str(state))
    assert (made.exit_code, made.stdout[:22]) == (0, '{"equal":0,"missing":0')
    shown = invoked("rebuild", "kiosk", "--reserved", "--state", str(state), COLUMNS="80").stdout
    assert "kiosk: what is reserved" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


@pytest.mark.parametrize("words", [(), ("sales", "--reserved"), ("--reserved", "--force"), ("--reserved", "--back")])
def test_a_rebuild_of_nothing_or_of_two_things_is_one_line_that_says_what_to_type(words: tuple[str, ...]) -> None:
    typed = invoked("rebuild", "kiosk", *words)
    says = "type chimera rebuild kiosk VIEW, or chimera rebuild kiosk --reserved [--json]"
    assert (typed.exit_code, typed.stderr) == (2, f"chimera: {says}; see: chimera rebuild --help\n")


def completed(*words: str) -> list[str]:
    environment = {
        **os.environ,
        "_CHIMERA_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["chimera", "--config", str(MARKETPLACE), *words]),
        "COMP_CWORD": str(2 + len(words)),
    }
    ran = subprocess.run(
        [Path(sys.executable).parent / "chimera"], env=environment, capture_output=True, text=True, check=True
    )
    return [line.partition(",")[2] for line in ran.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ret"], ["retention"]),
        (["run", "top"], ["top-clients"]),
        (["rebuild", "analytics", "seller_sales_"], ["seller_sales_by_day"]),
        (["mode", "gig-page", "t"], ["top-clients"]),
        (["audit", "top-clients", "t"], ["top-clients"]),
        (["parked", "list", "search", "--consumer", "index"], ["index:gig-page", "index:user-page"]),
        (["rebuild", "nobody", "x"], []),
        (["mode", "gig-page", "top-clients", "a"], ["async"]),
    ],
)
def test_a_shell_completes_what_there_is(words: list[str], found: list[str]) -> None:
    assert completed(*words) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how(shell: str) -> None:
    assert "_CHIMERA_COMPLETE" in invoked("completion", shell).stdout
