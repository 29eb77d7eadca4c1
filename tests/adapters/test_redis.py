"""Redis keeps the contracts, and what it promises beyond them."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from chimera.adapters.redis import RedisLastKnown, RedisViews, open_engine
from chimera.errors import SettingsError, Unavailable
from chimera.ports import Checkpoint, Document, Move
from chimera.testing.contracts import ViewStoreContract
from chimera.testing.contracts.lastknown import LastKnownContract
from tests.adapters.services import IN_TURN, run_services, url_of

pytestmark = IN_TURN


@pytest.fixture
async def prefix() -> AsyncIterator[str]:
    """A prefix of this test's own; what was kept under it is deleted afterwards."""
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    yield prefix
    sweeper = RedisViews(url_of("redis"), prefix=prefix)
    keys = await sweeper._server.read("KEYS", f"{prefix}:*")
    await sweeper._server.write(("UNLINK", "nothing", *keys))
    await sweeper.close()


class TestRedisViews(ViewStoreContract):
    @pytest.fixture
    def reopen(self, prefix: str) -> Callable[[], RedisViews]:
        return lambda: RedisViews(url_of("redis"), prefix=prefix)

    @pytest.fixture
    async def engine(self, reopen: Callable[[], RedisViews]) -> AsyncIterator[RedisViews]:
        views = reopen()
        yield views
        await views.close()


CONSUMER, VIEW = "sales", "sales"


class TestRedisLastKnown(LastKnownContract):
    @pytest.fixture
    async def engine(self, prefix: str) -> AsyncIterator[RedisLastKnown]:
        """Patient, as a busy machine may take more than a few milliseconds for a thousand values."""
        engine = RedisLastKnown(url_of("redis"), prefix=prefix)
        engine._patience._wait_s = 1.0
        yield engine
        await engine.close()

    @pytest.fixture
    async def fleeting(self, prefix: str) -> AsyncIterator[RedisLastKnown]:
        engine = RedisLastKnown(url_of("redis"), prefix=prefix, ttl_s=1)
        yield engine
        await engine.close()

    @pytest.fixture
    def down(self, unused_tcp_port: int) -> Callable[[], RedisLastKnown]:
        return lambda: RedisLastKnown(f"redis://127.0.0.1:{unused_tcp_port}")


@pytest.fixture
async def views(prefix: str) -> AsyncIterator[RedisViews]:
    views = RedisViews(url_of("redis"), prefix=prefix)
    await views.create()
    yield views
    await views.close()


def document(key: str, data: bytes | None = b"1", revision: int = 0) -> Document:
    return Document(VIEW, key, data, revision)


async def test_two_thousand_documents_are_one_write(views: RedisViews) -> None:
    first = [document(f"{at}") for at in range(2_000)]
    assert await views.write(CONSUMER, first, [])
    kept = await views.get(VIEW, [each.key for each in first])
    half = [each._replace(data=None if int(each.key) % 2 else b"2") for each in kept.values()]
    assert not await views.write(CONSUMER, [*half[:-1], half[-1]._replace(revision=1)], [])
    assert {each.data for each in await views.scan(VIEW, limit=3_000)} == {b"1"}
    assert await views.write(CONSUMER, half, [])
    found = await views.scan(VIEW, limit=3_000)
    assert len(found) == 1_000
    assert {each.data for each in found} == {b"2"}


async def test_scripts_that_the_server_forgot_are_sent_again(views: RedisViews) -> None:
    for key in ("a", "b"):
        await views._server.write(("SCRIPT", "FLUSH"))
        assert await views.write(CONSUMER, [document(key)], [])
        await views._server.write(("SCRIPT", "FLUSH"))
        assert (await views.scan(VIEW))[-1].key == key


async def test_a_revision_is_not_repeated_by_a_server_that_lost_everything(views: RedisViews) -> None:
    seen = set()
    for _ in range(3):
        assert await views.write(CONSUMER, [document("a")], [])
        seen.add((await views.get(VIEW, ["a"]))["a"].revision)
        await views._server.write(("DEL", f"{views._prefix}:revision"))
        await views.drop(CONSUMER, [VIEW])
    assert len(seen) == 3


async def test_revisions_grow_even_when_the_clock_does_not(views: RedisViews) -> None:
    await views._server.write(("SET", f"{views._prefix}:revision", 2**52))
    for at in (1, 2):
        await views.write(CONSUMER, [document(f"{at}")], [])
        assert (await views.get(VIEW, [f"{at}"]))[f"{at}"].revision == 2**52 + at


async def test_two_prefixes_do_not_see_one_another(views: RedisViews, prefix: str) -> None:
    other = RedisViews(url_of("redis"), prefix=f"{prefix}:other")
    for each, data in ((views, b"1"), (other, b"2")):
        assert await each.write(CONSUMER, [document("a", data)], [Move("orders", 0, 0, Checkpoint(1))])
    for each, data in ((views, b"1"), (other, b"2")):
        assert (await each.get(VIEW, ["a"]))["a"].data == data
        assert [found.data for found in await each.scan(VIEW)] == [data]
    await other.drop(CONSUMER, [VIEW])
    assert [found.data for found in await views.scan(VIEW)] == [b"1"]
    assert dict(await views.checkpoints(CONSUMER)) == {("orders", 0): Checkpoint(1)}
    await other.close()


async def test_connections_are_bounded_and_shared(prefix: str) -> None:
    views = RedisViews(url_of("redis"), prefix=prefix, connections=3)
    await asyncio.gather(*(views.write(CONSUMER, [document(f"{at}")], []) for at in range(50)))
    found = await asyncio.gather(*(views.get(VIEW, [f"{at}"]) for at in range(50)))
    assert [list(each) for each in found] == [[f"{at}"] for at in range(50)]
    assert len(views._server._idle) == 3
    await views.close()


async def test_a_cancelled_read_does_not_answer_the_next_one(views: RedisViews) -> None:
    await views.write(CONSUMER, [document(f"{at}", b"%d" % at) for at in range(100)], [])
    for at in range(100):
        reading = asyncio.ensure_future(views.get(VIEW, [f"{at}"]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        assert (await views.get(VIEW, ["7"]))["7"].data == b"7"


async def test_connections_that_the_server_closed_are_replaced(views: RedisViews) -> None:
    await asyncio.gather(*(views.get(VIEW, ["a"]) for _ in range(5)))
    killer = RedisViews(url_of("redis"))
    await killer._server.write(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    assert dict(await views.get(VIEW, ["a"])) == {}
    await asyncio.gather(*(views.get(VIEW, ["a"]) for _ in range(5)))
    await killer._server.write(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    await asyncio.sleep(1.05)
    assert await views.write(CONSUMER, [document("a")], [])
    await killer.close()


async def test_a_server_that_is_not_there_is_unavailable_in_one_line(unused_tcp_port: int) -> None:
    views = RedisViews(f"redis://user:secret@127.0.0.1:{unused_tcp_port}/3")
    with pytest.raises(Unavailable, match=rf"^redis://127\.0\.0\.1:{unused_tcp_port}/3: [^\n]+$") as caught:
        await views.get(VIEW, ["a"])
    assert "secret" not in str(caught.value)
    await views.close()


async def test_a_server_that_hangs_is_unavailable_after_the_timeout() -> None:
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"redis://127.0.0.1:{port}?socket_timeout="
    views, cache = RedisViews(f"{url}0.1"), RedisLastKnown(f"{url}1")
    with pytest.raises(Unavailable, match="did not answer"):
        await views.get(VIEW, ["a"])
    async with asyncio.timeout(5):
        for _ in range(10):
            assert dict(await cache.get_many(["a"])) == {}
    await views.close()
    await cache.close()
    await ended(server)


NOT_NOW = {
    "full": "OOM command not allowed when used memory > 'maxmemory'.",
    "read-only": "READONLY You can't write against a read only replica.",
    "loading": "LOADING Redis is loading the dataset in memory",
    "disk": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "replicas": "NOREPLICAS Not enough good replicas to write.",
    "master": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "cluster": "CLUSTERDOWN The cluster is down",
    "busy": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
}


@pytest.mark.parametrize("how", NOT_NOW)
async def test_a_server_that_can_not_do_it_now_is_unavailable_and_no_document_is_at_fault(how: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(1 << 16):
            fine = b"+OK\r\n" * len(re.findall(rb"^\*\d", command, re.MULTILINE))
            writer.write(f"-{NOT_NOW[how]}\r\n".encode() if b"EVAL" in command else fine)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    views = RedisViews(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(Unavailable) as caught:
        await views.write(CONSUMER, [document("a")], [])
    assert caught.type is Unavailable or how == "loading"
    await views.close()
    await ended(server)


async def ended(server: asyncio.Server) -> None:
    server.close()
    if serving := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(serving, timeout=60)


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_a_wrong_password_is_a_matter_of_settings() -> None:
    address = urlsplit(url_of("redis"))
    views = RedisViews(f"redis://nobody:secret@{address.hostname}:{address.port}/0")
    with pytest.raises(SettingsError, match=r"WRONGPASS|invalid username-password") as caught:
        await views.create()
    assert "secret" not in str(caught.value)
    await views.close()


async def test_a_server_that_would_evict_documents_is_refused(
    views: RedisViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def info(*_: Any) -> bytes:
        return b"# Memory\r\nmaxmemory_policy:allkeys-lru\r\n"

    monkeypatch.setattr(views._server, "read", info)
    with pytest.raises(SettingsError, match="allkeys-lru and would lose documents; set it to noeviction"):
        await views.create()


async def test_a_closed_engine_is_unavailable(views: RedisViews) -> None:
    await views.close()
    with pytest.raises(Unavailable, match="was closed"):
        await views.get(VIEW, ["a"])


async def test_what_was_confirmed_outlives_a_restart_of_the_server(views: RedisViews) -> None:
    await views.write(CONSUMER, [document("a")], [Move("orders", 0, 0, Checkpoint(1, 5))])
    await run_services("restart", "redis")
    assert (await views.get(VIEW, ["a"]))["a"].data == b"1"
    assert not await views.write(CONSUMER, [document("b")], [Move("orders", 0, 0, Checkpoint(1))])
    assert dict(await views.checkpoints(CONSUMER)) == {("orders", 0): Checkpoint(1, 5)}


async def test_a_killed_server_falls_back_to_documents_and_checkpoint_of_one_moment(views: RedisViews) -> None:
    for number in range(1, 200):
        kept = await views.get(VIEW, ["a"])
        changed = kept.get("a", document("a"))._replace(data=b"%d" % number)
        assert await views.write(CONSUMER, [changed], [Move("orders", 0, number - 1, Checkpoint(number))])
    await run_services("kill", "redis")
    with pytest.raises(Unavailable):
        await views.get(VIEW, ["a"])
    await run_services("start", "redis")
    at = (await views.checkpoints(CONSUMER)).get(("orders", 0), Checkpoint())
    found = (await views.get(VIEW, ["a"])).get("a", document("a", b"0"))
    assert int(found.data or b"") == at.number
    assert await views.write(CONSUMER, [found._replace(data=b"on")], [Move("orders", 0, at.number, Checkpoint(300))])


async def test_engines_open_by_url(prefix: str) -> None:
    views = open_engine("views", f"{url_of('redis')}?prefix={prefix}&socket_timeout=5")
    assert isinstance(views, RedisViews)
    await views.create()
    await views.write(CONSUMER, [document("a")], [])
    assert await views._server.read("EXISTS", f"{prefix}:documents:sales") == 1
    await views.close()


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        ("log", "redis://h", "Redis can't be a log"),
        ("views", "redis+x://u:secret@h", r"^redis\+x://h is not an address"),
        ("views", "redis://h?no_such_option=1", "no_such_option"),
        ("last_known", "redis://h?ttl=soon", "soon"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        open_engine(kind, url)


async def test_tls_is_spoken_where_the_url_says_so(prefix: str) -> None:
    views = open_engine("views", f"{url_of('redis_tls')}&prefix={prefix}")
    assert isinstance(views, RedisViews)
    await views.create()
    assert await views.write(CONSUMER, [document("a")], [])
    await views.close()
