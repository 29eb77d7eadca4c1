"""What only one may have is one's over all heads, whichever way it is asked for, and all others are told."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import aiohttp
import asyncmy
import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest

from chimera import Command, Entity, Event, Service, Taken, Transaction, Unique
from chimera.core.context import Context
from chimera.core.tables import Parked
from chimera.entities import RESERVED
from chimera.ports import Store
from chimera.run.engines import open_engine
from chimera.run.serving import listening
from chimera.run.write_head import WriteHead
from chimera.testing.engines import OpenEngines, memory_engines
from chimera.testing.waiting import running
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from tests.adapters.services import url_of
from tests.support import all_of, opened

COUNT = int(os.environ.get("CHIMERA_TEST_REGISTRATIONS", "300"))
EMAILS = COUNT // 10

people = Service("people", partitions=4)


@people.entity
class User(Entity, key="user_id", table="people_users", unique=[Unique("email", normalise=str.casefold)]):
    user_id: str
    email: str


class Register(Command, key="user_id"):
    user_id: str
    email: str


class SignUp(Command, key="user_id"):
    user_id: str
    email: str


class Suggest(Command, key="user_id"):
    user_id: str
    email: str


class Forget(Command, key="user_id"):
    user_id: str


class Registered(Event, source="people", key="user_id"):
    user_id: str
    email: str


class Welcomed(Event, source="people", key="user_id"):
    user_id: str


@people.handle("POST /users", direct=True)
async def register(command: Register, tx: Transaction) -> None:
    tx.save(User(command.user_id, command.email))
    tx.emit(Registered(command.user_id, command.email))


@people.handle("POST /sign-ups")
async def sign_up(command: SignUp, tx: Transaction) -> None:
    tx.save(User(command.user_id, command.email))
    tx.emit(Registered(command.user_id, command.email))


@people.handle("POST /suggestions", direct=True)
async def suggest(command: Suggest, tx: Transaction) -> dict[str, str]:
    """Whoever comes second gets a number behind the name."""
    try:
        await tx.claim(User(command.user_id, command.email))
    except Taken as taken:
        await tx.claim(User(command.user_id, f"{taken.value}+{taken.holder}"))
    kept = await tx.load(User, command.user_id)
    assert kept
    return {"email": kept.email}


@people.handle("DELETE /users/{user_id}", direct=True)
async def forget(command: Forget, tx: Transaction) -> None:
    if user := await tx.load(User, command.user_id):
        tx.delete(user)


_databases = (f"unique_{os.getpid()}_{number}" for number in itertools.count(1))


async def _on_mysql(sql: str) -> None:
    server = urlsplit(url_of("mysql"))
    connection = await asyncmy.connect(
        host=server.hostname, port=server.port, user=server.username, password=server.password, autocommit=True
    )
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
    await connection.ensure_closed()


async def _on_postgresql(sql: str) -> None:
    connection = await asyncpg.connect(url_of("postgresql"))
    await connection.execute(sql)
    await connection.close()


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def store_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty store of each engine."""
    database = next(_databases)
    match request.param:
        case "sqlite":
            yield f"sqlite:///{tmp_path_factory.mktemp(database)}/store.db"
        case "postgresql":
            server = url_of("postgresql")
            yield f"{server}{'&' if '?' in server else '?'}schema={database}"
            asyncio.run(_on_postgresql(f"DROP SCHEMA IF EXISTS {database} CASCADE"))
        case "mysql":
            asyncio.run(_on_mysql(f"CREATE DATABASE {database}"))
            yield urlsplit(url_of("mysql"))._replace(path=f"/{database}").geturl()
            asyncio.run(_on_mysql(f"DROP DATABASE {database}"))


@pytest.fixture
async def heads(store_url: str) -> AsyncIterator[list[Context]]:
    """Two processes of the service, as far as the store can tell: each has connections of its own."""
    shared = memory_engines()
    stores: list[Store] = [open_engine("store", store_url) for _ in range(2)]
    yield [await opened(people, OpenEngines(shared.log, store, shared.views)) for store in stores]
    for store in stores:
        await store.close()


async def served(stack: AsyncExitStack, contexts: list[Context]) -> list[str]:
    """The base URLs of their read heads."""
    bases = []
    for context in contexts:
        head = ReadHead(context)
        await head.start()
        stack.push_async_callback(head.stop)
        bases.append(await stack.enter_async_context(listening(Site([head]), "127.0.0.1", 0)))
    return bases


async def post(client: aiohttp.ClientSession, url: str, user_id: str, email: str) -> tuple[int, dict[str, str]]:
    async with client.post(url, json={"user_id": user_id, "email": email}) as answer:
        return answer.status, await answer.json(content_type=None)


async def ended(client: aiohttp.ClientSession, base: str, command_id: str) -> tuple[str, str]:
    """How a queued command ended, and why."""
    while True:
        async with client.get(f"{base}/_chimera/people/commands/{command_id}?wait=5") as answer:
            found = await answer.json()
        if found["state"] != "pending":
            return found["state"], found.get("reason", "")


async def test_of_ten_registrations_of_each_email_at_once_one_makes_a_user(heads: list[Context]) -> None:
    """Half of them direct at two read heads, half through the log to two write heads, all at once."""
    async with AsyncExitStack() as stack:
        bases = await served(stack, heads)
        await stack.enter_async_context(running(*(WriteHead(each, f"w{at}").run() for at, each in enumerate(heads))))
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)))

        async def ask(at: int) -> tuple[int, str]:
            base, email = bases[at // 2 % 2], f"{'Ann' if at % 3 else 'ann'}{at * 7 % EMAILS}@x"
            if at % 2:
                status, body = await post(client, f"{base}/users", f"u{at}", email)
                return status, body.get("reason", "")
            status, body = await post(client, f"{base}/sign-ups", f"u{at}", email)
            assert status == 201, body
            state, reason = await ended(client, base, body["command_id"])
            return {"done": 201, "rejected": 409}[state], reason

        async with asyncio.timeout(120):
            answers = Counter(await asyncio.gather(*(ask(at) for at in range(COUNT))))
    assert answers == {(201, ""): EMAILS, (409, "taken"): COUNT - EMAILS}
    users = await all_of(heads[0].store, User)
    assert len(users) == len({user.email.casefold() for user in users}) == EMAILS
    assert sum((await heads[0].store.heads()).values()) == EMAILS
    async with heads[0].store.snapshot() as session:
        assert len(await session.find(RESERVED, {})) == EMAILS
    assert await all_of(heads[0].store, Parked) == []


async def test_a_refusal_says_which_field_is_taken_and_is_the_end_of_it(heads: list[Context]) -> None:
    """By HTTP, direct and queued; what was taken is free again once its row is gone."""
    async with AsyncExitStack() as stack:
        [base, other] = await served(stack, heads)
        await stack.enter_async_context(running(WriteHead(heads[0], "w").run()))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        assert (await post(client, f"{base}/users", "u1", "ann@x"))[0] == 201
        status, body = await post(client, f"{other}/users", "u2", "ANN@x")
        assert (status, body["reason"], body["field"], body["detail"]) == (409, "taken", "email", "email is taken")
        _, body = await post(client, f"{other}/sign-ups", "u3", "ann@X")
        assert await ended(client, base, body["command_id"]) == ("rejected", "taken")
        assert await post(client, f"{base}/suggestions", "u4", "ann@x") == (201, {"email": "ann@x+u1"})
        async with client.delete(f"{other}/users/u1") as answer:
            assert answer.status == 200
        assert (await post(client, f"{base}/users", "u2", "ann@x"))[0] == 201
