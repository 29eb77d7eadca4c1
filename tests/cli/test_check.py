"""What `chimera check` prints of services that would start, within 80 columns, and what of engines that are away."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Checked(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def check(*words: str, **env: str) -> Checked:
    """In a process of its own: here, events of other tests look like the marketplace's."""
    command = [sys.executable, "-m", "chimera", "--config", str(ROOT / "chimera.toml"), "check", *words]
    own = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "COLUMNS": "80", **env}
    ran = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    return Checked(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIMERA_STATE", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_all_that_is_in_force_is_printed() -> None:
    checked = check(CHIMERA_HANDLING__LIMIT_S="3", CHIMERA_RETENTION__JOURNAL_DAYS="90")
    assert (checked.exit_code, checked.stderr) == (0, "")
    said = " ".join(checked.stdout.split())
    for words in (
        "serves http://127.0.0.1:8000 as 'Chimera marketplace'",
        "gig-page: marketplace.gig_page.service:gig_page log sqlite:///log store sqlite:///gig-page.db",
        "command PlaceOrder, POST /orders, 3 s, 30 tries, pauses 0.2 to 60 s",
        "command PublishGig, PUT /gigs/{gig_id}, direct, 3 s",
        "view seller_sales, GET /sellers/{seller_id}/sales",
        "share top-clients",
        "list ",
        "borrow top-clients of top-clients, async, budget 0.05 s, stale after 5 s",
        "keeps journal 90 days, inbox 7 days",
    ):
        assert words in said
    assert checked.stdout.endswith("all engines answer\nall names are well, and as stored\n")
    assert max(map(len, checked.stdout.splitlines())) <= 80


def test_the_ways_in_which_callers_are_known_are_told_and_what_is_in_no_setting_is_not(tmp_path: Path) -> None:
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    issuer = 'issuer = "https://login.example.com", audience = "shop", client_id = "pages", client_secret = "hush"'
    checked = check(
        CHIMERA_IDENTITY__ISSUERS=f"[{{{issuer}}}]",
        CHIMERA_IDENTITY__API_KEYS=f'[{{name = "robot", digest = "{digest}"}}]',
        CHIMERA_IDENTITY__SESSIONS="s" * 40,
        CHIMERA_IDENTITY__CERTIFICATES__HEADER="Client-Cert",
        CHIMERA_HTTP__PROXIES='["10.0.0.7"]',
    )
    said = " ".join(checked.stdout.split())
    ways = "tokens of https://login.example.com for shop; sessions of https://login.example.com as pages"
    assert f"known {ways}; API keys of robot; certificates, by uri, in Client-Cert" in said
    assert not [secret for secret in ("hush", digest, "s" * 40) if secret in checked.output]
    assert "known nobody, but where a service tells itself; add [identity]" in " ".join(
        check(CHIMERA_IDENTITY__ISSUERS="[]").stdout.split()
    )


def test_every_engine_that_is_away_is_named_and_the_others_are_checked_all_the_same() -> None:
    checked = check(
        CHIMERA_SERVICES__ORDERS__STORE="postgresql://me:hunter2@127.0.0.1:1/orders",
        CHIMERA_SERVICES__SEARCH__VIEWS="postgres://me:hunter2@db/search",
    )
    assert checked.exit_code == 1
    away, misspelt = sorted(checked.stderr.splitlines(), key=len)
    assert misspelt.startswith("chimera: orders: postgresql://me@127.0.0.1:1/orders")
    assert away.startswith("chimera: [services.search] views: postgres://me:…@db/search: no engine is called")
    assert "\nanalytics: " in checked.stdout
    assert "hunter2" not in checked.output


def test_without_engines_the_code_and_the_names_are_checked() -> None:
    checked = check("--offline", CHIMERA_STORE="postgresql://me:hunter2@127.0.0.1:1/{service}")
    assert (checked.exit_code, checked.stdout) == (0, "all names are well\n")


UNIQUE = """from chimera import Entity, Service
people = Service("people")

@people.entity
class User(Entity, key="user_id", table="users"{rule}):
    user_id: str
    email: str
"""


def test_a_unique_value_that_is_not_in_force_is_told_and_one_that_can_not_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "chimera.toml").write_text('[services.people]\napp = "people:people"\n')
    (tmp_path / "people.py").write_text(UNIQUE.replace("{rule}", ', unique=[("email",)]'))
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{tmp_path}", "COLUMNS": "80"}
    command = [sys.executable, "-m", "chimera", "check"]

    def checked() -> Checked:
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return Checked(ran.returncode, " ".join(ran.stdout.split()), ran.stderr)

    assert (
        "unique User by email, not in force yet: the next start looks through the rows that there are"
        in (fresh := checked()).stdout
    )
    assert fresh.exit_code == 0
    with closing(sqlite3.connect(tmp_path / "people.db")) as store, store:
        store.execute("INSERT INTO users (user_id, email) VALUES ('u1', 'a@x'), ('u2', 'a@x')")
    refused = checked()
    assert "unique User by email, not in force yet: the next start refuses: rows have the same" in refused.stdout
    assert refused.exit_code == 1
    [line] = refused.stderr.splitlines()
    assert line.startswith("chimera: people: people.py:")
    assert "User is unique by email, and 1 row has what another one has: 'a@x' (rows u1 and u2)" in line
