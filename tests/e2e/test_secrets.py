"""Secrets stay where they belong: in no log, metric, error, status, page, list of processes, and in nothing stored."""

from __future__ import annotations

import itertools
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera.errors import SettingsError
from chimera.run.addresses import check_address, shown
from chimera.run.settings import read_settings
from chimera_faults.fleet import command_of, descendants
from tests.e2e.conftest import Chimera, wait_until

FLEET, OPERATOR = "fleet-key-0123456789abcdef0123456789", "operator-key-0123456789abcdef012345"
TOKEN, COOKIE, QUERY, PASSWORD = "token-ann-5f2b9c", "cookie-5f2b9c", "query-5f2b9c", "password-5f2b9c"
NEARLY = OPERATOR[:-1] + "x"
SECRETS = (FLEET, OPERATOR, NEARLY, TOKEN, COOKIE, QUERY, PASSWORD)

DESK = f"""
from chimera import Caller, Command, Entity, Event, Reader, Rejected, Request, Service, Transaction

desk = Service("desk", partitions=2)

@desk.authenticate
async def who(request: Request) -> Caller | None:
    shown = request.headers.get("authorization", "")
    if shown == "Bearer expired-{TOKEN}":
        raise Rejected("expired", status=401)
    return Caller("ann", frozenset({{"seller"}})) if shown == "Bearer {TOKEN}" else None

class Note(Entity, key="note_id"):
    note_id: str

desk.entity(Note)

class Write(Command, key="note_id"):
    note_id: str

class Now(Command, key="note_id"):
    note_id: str

class Written(Event, source="desk", key="note_id"):
    note_id: str

@desk.handle("POST /notes")
async def write(command: Write, tx: Transaction, caller: Caller) -> None:
    if command.note_id == "broken":
        raise ValueError("it is broken")
    tx.save(Note(command.note_id))
    tx.emit(Written(command.note_id))

@desk.handle("POST /now", direct=True)
async def now(command: Now, tx: Transaction, request: Request) -> None:
    raise ValueError("it fails")

@desk.get("/me")
async def me(read: Reader, caller: Caller, q: str = "") -> dict[str, str]:
    return {{"subject": caller.subject}}

@desk.get("/boom")
async def boom(request: Request, q: str = "") -> dict[str, str]:
    raise RuntimeError("boom")
"""
CONFIG = """
[http]
access_log = "text"
[services.desk]
app = "desk:desk"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Chimera]:
    (tmp_path / "desk.py").write_text(DESK)
    (tmp_path / "chimera.toml").write_text(CONFIG)
    environment = {
        "CHIMERA_DEV": "false",
        "CHIMERA_FLEET__KEYS": FLEET,
        "CHIMERA_OPERATORS__KEYS": OPERATOR,
    }
    chimera = Chimera(tmp_path / "state", tmp_path / "chimera.toml", environment)
    yield chimera
    chimera.end()


def ask(base: str, method: str, path: str, token: str, body: str | None = None) -> str:
    headers = {"Authorization": f"Bearer {token}", "Cookie": f"session={COOKIE}"}
    request = urllib.request.Request(f"{base}{path}", body.encode() if body else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return f"{answer.status} {answer.headers} {answer.read().decode()}"
    except urllib.error.HTTPError as refused:
        return f"{refused.code} {refused.headers} {refused.read().decode()}"


def leaks(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", [(), ("--processes",)], ids=["one process", "processes"])
def test_no_secret_is_told_listed_or_stored(fleet: Chimera, way: tuple[str, ...]) -> None:
    running, base = fleet.up(*way), fleet.base
    answers = {
        (method, path, token): ask(base, method, path, token, body)
        for token in (TOKEN, OPERATOR, NEARLY, f"expired-{TOKEN}", "")
        for method, path, body in (
            ("GET", f"/me?q={QUERY}", None),
            ("GET", f"/boom?q={QUERY}", None),
            ("GET", f"/nowhere/{{}}?q={QUERY}", None),
            ("POST", "/notes", '{"note_id":"n"}'),
            ("POST", "/notes", '{"note_id":"broken"}'),
            ("POST", "/notes", '{"note_id":7}'),
            ("POST", "/now", '{"note_id":"n"}'),
            ("GET", "/_chimera/desk/status", None),
            ("GET", "/_chimera/desk/journal?partition=0", None),
            ("GET", "/_chimera/desk/health/ready", None),
            ("GET", "/_chimera/desk/metrics", None),
            ("GET", "/metrics", None),
            ("GET", "/openapi.json", None),
            ("GET", "/", None),
        )
    }
    assert answers["GET", f"/me?q={QUERY}", TOKEN].startswith("200")
    assert answers["GET", f"/boom?q={QUERY}", TOKEN].startswith("500")
    assert answers["POST", "/now", TOKEN].startswith("500")
    assert answers["GET", "/_chimera/desk/status", OPERATOR].startswith("200")
    assert answers["GET", "/_chimera/desk/status", NEARLY].startswith("401")
    assert [asked for asked, answer in answers.items() if leaks(answer)] == []

    pids = [running.pid, *descendants(running.pid)]
    assert [command_of(pid) for pid in pids if leaks(command_of(pid))] == []
    for command in (["status"], ["check"], ["parked", "list", "--json"], ["parked", "show", "--json"], ["retention"]):
        told = fleet.run(*command)
        assert leaks(told.stdout + told.stderr) == [], command

    def is_logged() -> bool:
        return "boom" in running.output and "it is broken" in running.output and "GET /me 200" in running.output

    wait_until(is_logged, 10)
    assert "boom" in running.output
    assert "GET /me 200" in running.output
    running.stop()
    assert leaks("".join(running.lines)) == []
    stored = [path for path in fleet.state.rglob("*") if path.is_file()]
    assert stored
    assert [path.name for path in stored if leaks(path.read_bytes().decode("latin-1"))] == []


ENGINES = ("postgresql", "mysql", "mongodb", "redis", "rabbitmq", "kafka", "memcached")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_not_there_is_told_without_its_password(engine: str, tmp_path: Path) -> None:
    kinds = {"rabbitmq": "LOG", "kafka": "LOG", "mongodb": "VIEWS", "redis": "VIEWS", "memcached": "LAST_KNOWN"}
    options = "" if engine in ("rabbitmq", "memcached") else "?"
    url = f"{engine}://ann:{PASSWORD}@127.0.0.1:9/desk{options}"
    (tmp_path / "desk.py").write_text(DESK)
    (tmp_path / "chimera.toml").write_text(CONFIG)
    fleet = Chimera(tmp_path / "state", tmp_path / "chimera.toml", {f"CHIMERA_{kinds.get(engine, 'STORE')}": url})
    told = fleet.run("check")
    assert told.returncode or engine == "memcached", "what is last known may be missing"
    assert leaks(told.stdout + told.stderr) == []


WRONG_URLS = (
    "{scheme}://ann:{secret}@host:port/db",
    "{scheme}://ann:{secret}@",
    "{scheme}://ann:{secret}@/db?no=such",
    "{scheme}://ann:{secret}@host/db?sslmode=nonsense&unknown=1",
    "{scheme}:ann:{secret}@host/db",
    "{scheme}://ann:{secret}@[::1/db",
    "{scheme}://:{secret}@host:1/db#x",
    "{scheme}x://ann:{secret}@host/db",
    "{scheme}://ann:a//{secret}@host/db",
    "{scheme}:ann:a//{secret}@host/db",
    "ann:{secret}@host/db",
)


@pytest.mark.parametrize(("scheme", "wrong"), [*itertools.product(ENGINES, WRONG_URLS)])
def test_an_address_that_is_wrong_is_told_without_its_password(scheme: str, wrong: str) -> None:
    url = wrong.format(scheme=scheme, secret=PASSWORD)
    told = [shown(url)]
    for kind in ("log", "store", "views", "last_known"):
        try:
            check_address(kind, url)
        except SettingsError as error:
            told.append(str(error))
    assert [text for text in told if leaks(text)] == []


@pytest.mark.parametrize(
    "setting",
    [
        {"CHIMERA_FLEET__KEYS": PASSWORD[:10]},
        {"CHIMERA_OPERATORS__KEYS": f'["{PASSWORD}", 7]'},
        {"CHIMERA_FLEET__KEYS": f"file:/nowhere/{QUERY[:3]}"},
        {"CHIMERA_HTTP__KEY_PASSWORD": PASSWORD, "CHIMERA_HTTP__KEY": "nowhere.pem"},
        {"CHIMERA_STORE": f"postgresql://ann:{PASSWORD}@host/db", "CHIMERA_PORT": "many"},
    ],
)
def test_a_setting_that_is_wrong_is_told_without_what_it_holds(setting: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "chimera.toml").write_text(CONFIG)
    with pytest.raises(SettingsError) as told:
        read_settings(tmp_path / "chimera.toml", setting)
    assert PASSWORD[:10] not in str(told.value)
