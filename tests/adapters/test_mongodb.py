"""MongoDB keeps the contracts, and what it promises beyond them."""

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import AsyncMongoClient

from chimera.adapters.mongodb import MongoViews, open_engine
from chimera.errors import SettingsError, Unavailable
from chimera.ports import Checkpoint, Document, Move
from chimera.testing.contracts import ViewStoreContract
from tests.adapters.services import url_of

# The driver leaves the socket of a refused login, or of a connection being made when it is closed, to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
async def collected() -> AsyncIterator[None]:
    """Has such sockets collected here, where they are expected, and not in whatever test comes next."""
    yield
    await asyncio.sleep(0)
    gc.collect()


@asynccontextmanager
async def database(engine: str = "mongodb") -> AsyncIterator[str]:
    """The URL of a database of a test's own, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = urlsplit(url_of(engine))._replace(path=f"/{name}").geturl()
    yield url
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        await client.drop_database(name)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with database() as url:
        yield url


class TestMongoViews(ViewStoreContract):
    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], MongoViews]:
        return lambda: MongoViews(url)

    @pytest.fixture
    async def engine(self, reopen: Callable[[], MongoViews]) -> AsyncIterator[MongoViews]:
        views = reopen()
        yield views
        await views.close()


CONSUMER, VIEW = "sales", "sales"
STEPS = 16


class Crash(Exception):  # noqa: N818 - it ends a process in these tests
    pass


class Mortal:
    """A collection whose process dies after so many calls of the driver: before a call, or when it is done."""

    def __init__(self, collection: Any, lives: list[int], *, done: bool) -> None:
        self._collection, self._lives, self._done = collection, lives, done

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._collection, name)
        if name == "find":
            return call

        async def mortal(*arguments: Any, **options: Any) -> Any:
            self._lives[0] -= 1
            if self._lives[0] < 0 or (self._lives[0] == 0 and not self._done):
                raise Crash
            result = await call(*arguments, **options)
            if self._lives[0] == 0:
                raise Crash
            return result

        return mortal


def doomed(url: str, lives: int, *, done: bool) -> MongoViews:
    left = [lives]

    def mortal(name: str) -> Any:
        return property(lambda self: Mortal(getattr(MongoViews, name).fget(self), left, done=done))

    names = ("_documents", "_heads", "_batches")
    engine: MongoViews = type("Doomed", (MongoViews,), {name: mortal(name) for name in names})(url)
    return engine


async def opened(url: str) -> MongoViews:
    views = MongoViews(url)
    await views.create()
    return views


async def fold(views: MongoViews, number: int) -> int:
    """What a projector does with the event of this number: it counts in `old`, makes `new-…`, deletes `gone`."""
    kept = await views.get(VIEW, ["old", "gone", f"new-{number}"])
    old = kept.get("old", Document(VIEW, "old", b"0"))
    documents = [
        old._replace(data=b"%d" % (int(old.data or b"0") + 1)),
        kept.get(f"new-{number}", Document(VIEW, f"new-{number}", None))._replace(data=b"1"),
    ]
    if "gone" in kept:
        documents.append(kept["gone"]._replace(data=None))
    return await views.write(CONSUMER, documents, [Move("orders", 0, number - 1, Checkpoint(number))])


async def catch_up(views: MongoViews, to: int) -> None:
    """Goes on from the checkpoint until an event is folded, as a projector after a restart."""
    while (at := (await views.checkpoints(CONSUMER)).get(("orders", 0), Checkpoint()).number) < to:
        await fold(views, at + 1)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("lives", range(1, STEPS))
async def test_a_write_that_stops_at_any_step_is_applied_once(url: str, lives: int, done: bool) -> None:
    healthy = await opened(url)
    await healthy.write(CONSUMER, [Document(VIEW, "gone", b"1")], [])
    await fold(healthy, 1)
    await healthy.write(CONSUMER, [Document(VIEW, "gone", b"1")], [])
    dying = doomed(url, lives, done=done)
    dying._connect()
    with suppress(Crash):
        await fold(dying, 2)
    seen = (await healthy.checkpoints(CONSUMER))["orders", 0].number
    if seen == 2:
        assert (await healthy.get(VIEW, ["old"]))["old"].data == b"2"
    another = await opened(url) if lives % 2 else healthy
    await catch_up(another, 3)
    kept = await another.get(VIEW, ["old", "gone", "new-1", "new-2", "new-3"])
    assert {key: each.data for key, each in kept.items()} == {"old": b"3", "new-1": b"1", "new-2": b"1", "new-3": b"1"}
    assert await left_over(another) == (0, 0)
    for views in {healthy, another, dying}:
        await views.close()


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("lives", range(1, 9))
async def test_a_drop_that_stops_at_any_step_is_done_or_not(url: str, lives: int, done: bool) -> None:
    healthy = await opened(url)
    await fold(healthy, 1)
    dying = doomed(url, lives, done=done)
    dying._connect()
    with suppress(Crash):
        await dying.drop(CONSUMER, [VIEW, "sales.parked"])
    await catch_up(healthy, 2)
    kept = await healthy.get(VIEW, ["old", "new-1", "new-2"])
    assert {key: each.data for key, each in kept.items()} == {"old": b"2", "new-1": b"1", "new-2": b"1"}
    assert await left_over(healthy) == (0, 0)
    for views in (healthy, dying):
        await views.close()


class Noting(MongoViews):
    """Notes what it settles."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.settled: list[tuple[str, int, dict[str, Any]]] = []

    async def _finish(self, consumer: str, seq: int, pending: dict[str, Any]) -> None:
        self.settled.append((consumer, seq, pending))
        await super()._finish(consumer, seq, pending)


async def test_a_helper_that_comes_late_changes_nothing(url: str) -> None:
    views = Noting(url)
    await views.create()
    for number in range(1, 4):
        await fold(views, number)
    kept = (await views.get(VIEW, ["old", "new-2"])).values()
    await views.write(CONSUMER, [each._replace(data=None) for each in kept], [])
    await views.drop(CONSUMER, ["sales.parked"])
    await views.write(CONSUMER, [Document(VIEW, "new-2", b"again"), Document("sales.parked", "x", b"1")], [])
    before = await views.scan(VIEW), await views.scan("sales.parked"), await views.checkpoints(CONSUMER)
    for arguments in list(views.settled):
        await views._finish(*arguments)
    assert (await views.scan(VIEW), await views.scan("sales.parked"), await views.checkpoints(CONSUMER)) == before
    await views.close()


async def test_a_stale_writer_that_staged_can_not_commit_nor_block_others(url: str) -> None:
    one, other = await opened(url), await opened(url)
    head = await one._settled(CONSUMER)
    new = [{"_id": "sales/a", "data": b"1", "consumer": CONSUMER, "seq": head.seq}]
    assert await one._stage(CONSUMER, head, "stale", new)
    assert dict(await other.get(VIEW, ["a"])) == {}
    assert list(await other.scan(VIEW)) == []
    assert await other.write(CONSUMER, [Document(VIEW, "a", b"2")], [])
    assert not await one._commit(CONSUMER, head, {"batch": "stale", "chunks": 0, "checkpoints": [], "revision": 1})
    assert (await one.get(VIEW, ["a"]))["a"].data == b"2"
    await one.close()
    await other.close()


async def test_writers_in_several_processes_lose_no_update(url: str) -> None:
    engines = [await opened(url) for _ in range(3)]

    async def increment(views: MongoViews, partition: int) -> None:
        for number in range(5):
            while True:
                kept = (await views.get(VIEW, ["a"])).get("a", Document(VIEW, "a", b"0"))
                document = kept._replace(data=b"%d" % (int(kept.data or b"0") + 1))
                move = Move("orders", partition, number, Checkpoint(number + 1))
                if await views.write(CONSUMER, [document], [move]):
                    break

    await asyncio.gather(*(increment(views, partition) for partition, views in enumerate(engines)))
    assert (await engines[0].get(VIEW, ["a"]))["a"].data == b"15"
    assert {each.number for each in (await engines[0].checkpoints(CONSUMER)).values()} == {5}
    for views in engines:
        await views.close()


async def test_a_write_larger_than_a_document_of_mongodb_is_kept_in_parts(url: str) -> None:
    views = MongoViews(url, chunk_bytes=1_000)
    await views.create()
    for data in (b"1" * 300, b"2" * 300, b"3" * 3_000):
        kept = await views.get(VIEW, [f"{at}" for at in range(20)])
        documents = [kept.get(f"{at}", Document(VIEW, f"{at}", b""))._replace(data=data) for at in range(20)]
        assert await views.write(CONSUMER, documents, [])
        assert {each.data for each in await views.scan(VIEW)} == {data}
    assert await left_over(views) == (0, 0)
    await views.close()


async def test_two_thousand_documents_are_one_write(url: str) -> None:
    views = await opened(url)
    assert await views.write(CONSUMER, [Document(VIEW, f"{at}", b"1") for at in range(2_000)], [])
    assert len(await views.scan(VIEW, limit=3_000)) == 2_000
    await views.close()


async def test_two_databases_do_not_see_one_another(url: str) -> None:
    async with database() as other_url:
        one, other = await opened(url), await opened(other_url)
        for views, data in ((one, b"1"), (other, b"2")):
            assert await views.write(CONSUMER, [Document(VIEW, "a", data)], [Move("orders", 0, 0, Checkpoint(1))])
        for views, data in ((one, b"1"), (other, b"2")):
            assert [found.data for found in await views.scan(VIEW)] == [data]
        await other.drop(CONSUMER, [VIEW])
        assert [found.data for found in await one.scan(VIEW)] == [b"1"]
        assert dict(await one.checkpoints(CONSUMER)) == {("orders", 0): Checkpoint(1)}
        await one.close()
        await other.close()


async def test_tls_is_spoken_where_the_url_says_so() -> None:
    async with database("mongodb_tls") as url:
        views = await opened(url)
        assert await views.write(CONSUMER, [Document(VIEW, "a", b"1")], [])
        await views.close()


async def test_without_transactions_a_document_has_one_writer(url: str) -> None:
    views = await opened(url)
    await views.write(CONSUMER, [Document(VIEW, "a", b"1")], [])
    kept = (await views.get(VIEW, ["a"]))["a"]
    if not views._transactions:
        with pytest.raises(ValueError, match="written by sales, so others"):
            await views.write("others", [kept._replace(data=b"2")], [])
    await views.close()


async def test_a_server_that_is_not_there_is_unavailable_in_one_line(unused_tcp_port: int) -> None:
    views = MongoViews(f"mongodb://user:secret@127.0.0.1:{unused_tcp_port}/views?serverSelectionTimeoutMS=200")
    with pytest.raises(Unavailable, match=rf"^mongodb://127\.0\.0\.1:{unused_tcp_port}/views: ") as caught:
        await views.create()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    await views.close()


async def test_a_wrong_password_is_a_matter_of_settings(url: str) -> None:
    views = MongoViews(url.replace("//", "//nobody:secret@"))
    with pytest.raises(SettingsError, match="mongodb://") as caught:
        await views.create()
    assert "secret" not in str(caught.value)
    await views.close()


async def test_an_engine_that_is_not_open_is_unavailable(url: str) -> None:
    views = MongoViews(url)
    with pytest.raises(Unavailable, match="is not open"):
        await views.get(VIEW, ["a"])
    await views.create()
    await views.close()
    with pytest.raises(Unavailable, match="was closed"):
        await views.create()


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        ("log", "mongodb://h/d", "MongoDB can't be a log"),
        ("views", "mongo://u:secret@h/d", r"^mongo://h/d is not an address"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        open_engine(kind, url)


async def test_an_address_without_a_database_is_refused() -> None:
    with pytest.raises(SettingsError, match="database"):
        await MongoViews("mongodb://127.0.0.1:1").create()


async def left_over(views: MongoViews) -> tuple[int, int]:
    """How many batches and staged documents are kept."""
    return await views._batches.count_documents({}), await views._documents.count_documents({"staged": {"$gt": ""}})


async def test_processes_that_take_turns_at_a_consumer_write_everything_once(url: str) -> None:
    turns = [await opened(url) for _ in range(3)]
    for number in range(1, 13):
        assert await fold(turns[number % 3], number)
        assert not await fold(turns[(number + 1) % 3], number)
    old = (await turns[0].get(VIEW, ["old"]))["old"]
    assert (old.data, await turns[0].checkpoints(CONSUMER)) == (b"12", {("orders", 0): Checkpoint(12)})
    for views in turns:
        await views.close()


async def test_a_head_that_was_deleted_is_not_mistaken_for_the_one_made_anew(url: str) -> None:
    views, other = await opened(url), await opened(url)
    for number in range(1, 4):
        assert await fold(views, number)
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        await client.get_default_database()["heads"].delete_many({})
    for number in range(1, 4):
        assert await fold(other, number)
    assert not await fold(views, 4 - 1)
    assert await fold(views, 4)
    assert (await other.checkpoints(CONSUMER))["orders", 0] == Checkpoint(4)
    await views.close()
    await other.close()
