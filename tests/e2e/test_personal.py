"""A person's data on every kind of engine: nowhere in clear before she is forgotten, and opened by nothing after."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from chimera.core.names import commands_topic, events_topic
from chimera.run.engines import open_engine
from chimera_faults import sweeping
from tests.adapters.services import IN_TURN, url_of
from tests.e2e.conftest import Chimera, wait_until
from tests.e2e.stacks import Stack, stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CANARY = "canary-4711"
KEY = "a master key for this test, long enough"
PEOPLE = """
from chimera import Command, Entity, Event, Personal, Reads, Service, Transaction
from msgspec import Struct

people = Service("people", partitions=2)

class Register(Command, key="user_id"):
    user_id: str
    email: Personal[str]

class Fail(Command, key="user_id"):
    user_id: str
    email: Personal[str]

class Rename(Command, key="user_id"):
    user_id: str
    name: Personal[str]

class Registered(Event, source="people", key="user_id"):
    user_id: str
    email: Personal[str]

@people.entity
class Person(Entity, key="user_id", table="people"):
    user_id: str
    email: Personal[str]

class Profile(Struct):
    user_id: str
    email: Personal[str] | None = None

@people.handle("POST /people")
async def register(command: Register, tx: Transaction) -> None:
    email = await tx.reveal(command.email)
    if email:
        await tx.reserve("email", await tx.blind("email", email), holder=command.user_id)
    tx.save(Person(command.user_id, command.email))
    tx.emit(Registered(command.user_id, command.email))

@people.handle("POST /failures")
async def fail(command: Fail, tx: Transaction) -> None:
    raise ValueError(f"{command} {command.email!r}")

@people.handle("POST /names", direct=True)
async def rename(command: Rename, tx: Transaction) -> Rename:
    return command

profiles = people.view(Profile, key="user_id", path="/profiles/{user_id}")

@profiles.on(Registered)
def registered(profile: Profile, event: Registered) -> None:
    profile.email = event.email

profiles.list("all", path="/profiles")

@people.share("profile", key="user_id", changed_by=[Registered])
async def shared(user_ids: list[str], reads: Reads) -> dict[str, Profile]:
    found = [await reads.load(Person, each) for each in user_ids]
    return {each.user_id: Profile(each.user_id, each.email) for each in found if each}
"""
PAGES = """
from chimera import Event, Personal, Reader, Service
from msgspec import Struct

pages = Service("pages", partitions=2)

class Registered(Event, source="people", key="user_id"):
    user_id: str
    email: Personal[str]

class Profile(Struct):
    user_id: str
    email: Personal[str] | None = None

cards = pages.view(Profile, key="user_id", path="/cards/{user_id}", name="cards")

@cards.on(Registered)
def registered(card: Profile, event: Registered) -> None:
    card.email = event.email

asked = pages.borrow("profile", Profile, owner="people", mode="sync", budget=2.0)

@pages.get("/pages/{user_id}")
async def page(user_id: str, reader: Reader) -> dict[str, object]:
    found = await reader.borrowed(asked, user_id)
    return {"state": found.state, "email": found.value and found.value.email}
"""
CONFIG = '[services.people]\napp = "people:people"\n[services.pages]\napp = "pages:pages"\n'
SERVICES = {"people": 2, "pages": 2}


class Fleet:
    """Two services on a stack: people, and pages that show them."""

    def __init__(self, folder: Path, on: Stack, more: dict[str, str]) -> None:
        (folder / "app").mkdir()
        for name, text in (("people.py", PEOPLE), ("pages.py", PAGES), ("chimera.toml", CONFIG)):
            (folder / "app" / name).write_text(text)
        self.on, self.state = on, folder / "state"
        environment = {"CHIMERA_PERSONAL__KEYS": KEY.replace(" ", "-").replace(",", ""), **on.environment, **more}
        self.environment = environment
        self.chimera = Chimera(self.state, folder / "app" / "chimera.toml", environment)

    def url(self, kind: str, service: str) -> str:
        url = self.environment.get(f"CHIMERA_{kind.upper()}", "")
        return url.replace("{service}", service)


def ask(url: str, body: dict[str, str] | None = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(url, data, given, method="GET" if body is None else "POST"), timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("rabbitmq-mysql-mongodb-redis", marks=IN_TURN),
        pytest.param("kafka-postgresql", marks=IN_TURN),
    ]
)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    tag = f"p{uuid.uuid4().hex[:8]}"
    on = stack(request.param, tag)
    more: dict[str, str] = {}
    if "postgresql" in request.param:
        more["CHIMERA_LAST_KNOWN"] = url_of("memcached")
    if "mongodb" in request.param:
        more["CHIMERA_SERVICES__PAGES__VIEWS"] = f"{url_of('redis')}?prefix={tag}"
    on.environment.pop("CHIMERA_SERVICES__WITNESS__VIEWS", None)  # type: ignore[attr-defined]
    found = Fleet(tmp_path, on, more)
    yield found
    found.chimera.end()
    asyncio.run(take_away(on))


async def take_away(on: Stack) -> None:
    await sweeping.take_away(on.name, on.tag, SERVICES)
    if "mongodb" in on.name:
        from redis.asyncio import Redis

        await sweeping.drop_mongodb(on.tag)
        async with Redis.from_url(url_of("redis")) as client:
            async for key in client.scan_iter(f"{on.tag}*", count=1000):
                await client.unlink(key)


def test_a_person_is_nowhere_in_clear_and_then_forgotten_everywhere(fleet: Fleet) -> None:
    running = fleet.chimera.up()
    base = fleet.chimera.base
    email = f"{CANARY}@example.org"
    assert ask(f"{base}/people", {"user_id": "u-1", "email": email}, Idempotency_Key="k")[0] == 201
    assert ask(f"{base}/people", {"user_id": "u-2", "email": "other@example.org"})[0] == 201
    assert ask(f"{base}/failures", {"user_id": "u-3", "email": email})[0] == 201
    assert ask(f"{base}/names", {"user_id": "u-1", "name": CANARY})[1] == {"user_id": "u-1", "name": CANARY}
    for path in ("profiles/u-1", "cards/u-1", "pages/u-1"):
        assert wait_until(lambda path=path: ask(f"{base}/{path}")[1].get("email") == email, 30), path  # type: ignore[misc]
    assert wait_until(lambda: "ValueError" in fleet.chimera.run("parked", "list").stdout, 30)
    listed = fleet.chimera.run("parked", "list", "--json")
    assert CANARY not in fleet.chimera.run("status").stdout + listed.stdout + running.output
    kept = everything(fleet)
    assert any(b"~p1.people." in each for each in kept.values())
    assert [place for place, data in kept.items() if CANARY.encode() in data] == []

    exported = fleet.chimera.run("export", "u-1")
    assert email in exported.stdout, exported.stderr
    assert "other@" not in exported.stdout
    assert "nobody has asked" in fleet.chimera.run("forget", "u-1", "--status").stdout
    forgotten = fleet.chimera.run("forget", "u-1", "--yes", "--by", "her own wish")
    assert forgotten.returncode == 0, forgotten.stdout + forgotten.stderr + running.output
    assert "people: forgotten, told by people/" in forgotten.stdout
    assert "0 of them open" in forgotten.stdout
    assert "pages: forgotten" in forgotten.stdout
    for path in ("profiles/u-1", "cards/u-1", "pages/u-1"):
        assert ask(f"{base}/{path}")[1]["email"] is None, path
        assert ask(f"{base}/{path.replace('u-1', 'u-2')}")[1]["email"] == "other@example.org"
    assert ask(f"{base}/people", {"user_id": "u-1", "email": email})[0] == 410
    assert ask(f"{base}/people", {"user_id": "u-4", "email": email})[0] == 201, "what she had reserved is anybody's"
    assert wait_until(lambda: ask(f"{base}/profiles/u-4")[1].get("email") == email, 30), "it is anybody's"
    assert email not in fleet.chimera.run("export", "u-1").stdout
    rebuild = fleet.chimera.run("rebuild", "people", "profile")
    assert rebuild.returncode == 0, rebuild.stdout + rebuild.stderr
    assert ask(f"{base}/profiles/u-1")[1]["email"] is None, "a rebuild brings nothing back"
    running.stop()
    assert [place for place, data in everything(fleet).items() if CANARY.encode() in data] == []


def everything(fleet: Fleet) -> dict[str, bytes]:
    """All that is kept of the fleet: files, tables, documents, keys of caches, records of logs."""
    found = {str(path): path.read_bytes() for path in fleet.state.rglob("*") if path.is_file()}
    return found | asyncio.run(_on_servers(fleet))


async def _on_servers(fleet: Fleet) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    name, tag = fleet.on.name, fleet.on.tag
    if name != "embedded":
        async for place, data in _records(fleet):
            found[place] = data
    if "postgresql" in name:
        found |= await _tables_of_postgresql(tag)
        found |= _cached()
    if "mysql" in name:
        found |= await _tables_of_mysql(tag)
        found |= await _documents(tag)
        found |= await _keys_of_redis(tag)
    return found


async def _records(fleet: Fleet) -> AsyncIterator[tuple[str, bytes]]:
    log = open_engine("log", fleet.url("log", ""))
    try:
        for service, partitions in SERVICES.items():
            for topic in (commands_topic(service), events_topic(service)):
                await log.create(topic, partitions)
                left = {each: end for each, end in (await log.ends(topic)).items() if end}
                reading = log.read(topic, dict.fromkeys(left, 0))
                while left:
                    for record in await asyncio.wait_for(anext(reading), 20):
                        yield f"{topic}/{record.message.partition}@{record.offset}", repr(record).encode()
                        if record.offset >= left.get(record.message.partition, 0):
                            left.pop(record.message.partition, None)
                await reading.aclose()
    finally:
        await log.close()


async def _tables_of_postgresql(tag: str) -> dict[str, bytes]:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(url_of("postgresql"))
    try:
        tables = await connection.fetch(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname LIKE $1", f"{tag}%"
        )
        assert tables
        return {
            f"{schema}.{table}": repr(
                [tuple(row) for row in await connection.fetch(f'SELECT * FROM "{schema}"."{table}"')]
            ).encode()
            for schema, table in tables
        }
    finally:
        await connection.close()


async def _tables_of_mysql(tag: str) -> dict[str, bytes]:
    import asyncmy

    server = urlsplit(url_of("mysql"))
    connection = await asyncmy.connect(
        host=server.hostname, port=server.port, user=server.username, password=server.password
    )
    found: dict[str, bytes] = {}
    async with connection, connection.cursor() as cursor:
        await cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema LIKE %s", (f"{tag}%",)
        )
        for schema, table in await cursor.fetchall():
            await cursor.execute(f"SELECT * FROM `{schema}`.`{table}`")
            found[f"{schema}.{table}"] = repr(await cursor.fetchall()).encode()
    assert found
    return found


async def _documents(tag: str) -> dict[str, bytes]:
    from pymongo import AsyncMongoClient

    found: dict[str, bytes] = {}
    client: AsyncMongoClient[dict[str, Any]]
    async with AsyncMongoClient(url_of("mongodb")) as client:
        for database in await client.list_database_names():
            if database.startswith(tag):
                for collection in await client[database].list_collection_names():
                    documents: list[Any] = await client[database][collection].find().to_list()
                    found[f"{database}.{collection}"] = repr(documents).encode()
    return found


async def _keys_of_redis(tag: str) -> dict[str, bytes]:
    from redis.asyncio import Redis

    found: dict[str, bytes] = {}
    async with Redis.from_url(url_of("redis")) as client:
        async for key in client.scan_iter(f"{tag}*", count=1000):
            kind: Any = await client.type(key)
            read = {"string": client.get, "hash": client.hgetall, "set": client.smembers}.get(kind.decode())
            found[repr(key)] = repr(await (read(key) if read else client.zrange(key, 0, -1))).encode()
    assert found
    return found


def _cached() -> dict[str, bytes]:
    """All that memcached has of the services."""
    server = urlsplit(url_of("memcached"))
    with socket.create_connection((server.hostname or "", server.port or 0), 10) as connection:
        listed = _told(connection, b"lru_crawler metadump all\r\n")
        keys = [line.split()[0].removeprefix(b"key=") for line in listed.splitlines() if line.startswith(b"key=")]
        return {repr(key): _told(connection, b"get " + key + b"\r\n") for key in keys}


def _told(connection: socket.socket, asked: bytes) -> bytes:
    connection.sendall(asked)
    told = b""
    while not told.endswith(b"END\r\n"):
        told += connection.recv(65536)
    return told
