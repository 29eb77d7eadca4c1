"""Marks on every engine: view stores and stores of others are refused there too, and topics of another installation."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chimera import Service, SettingsError
from chimera.core.context import Context
from chimera.core.names import MARKS
from chimera.core.tables import StoredName
from chimera.ports import Log, Store, ViewStore
from chimera.run.engines import open_engine
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.upkeep.admission.marks import check_store
from chimera.upkeep.admission.naming import admit
from chimera_faults import sweeping
from tests.adapters.services import IN_TURN, need_packages, url_of
from tests.builds import build, forget_all
from tests.cli.test_parked_engines import own
from tests.support import Engines, all_of, make_context, opened
from tests.upkeep.test_marks import OTHER, SAME_VIEW
from tests.upkeep.test_naming import order
from tests.views.test_rebuild import TIMING

VIEWS: list[Any] = ["sqlite", "postgresql", "mysql", "mongodb", pytest.param("redis", marks=IN_TURN)]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    forget_all()


async def started(service: Service, engines: Engines) -> Context:
    context = await opened(service, engines, timing=TIMING)
    await admit(context)
    return context


def with_views(views: ViewStore) -> Engines:
    """An installation of its own but for its view store."""
    return Engines(MemoryLog(), MemoryStore(), views)


@pytest.fixture(params=VIEWS)
async def views(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ViewStore]:
    url, clear = await own(request.param, tmp_path)
    found: ViewStore = open_engine("views", url)
    yield found
    await found.close()
    if clear is not None:
        await clear()


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
async def test_what_is_said_removes_views_and_leaves_a_store_beside_them(engine: str, tmp_path: Path) -> None:
    url, clear = await own(engine, tmp_path)
    store, views = open_engine("store", url), open_engine("views", url)
    try:
        await started(build(), Engines(MemoryLog(), store, views))
        with pytest.raises(SettingsError) as refused:
            await started(build(), with_views(views))
        typed = str(refused.value).rpartition(": ")[2]
        async with store.transaction() as session:
            for statement in typed.split("; "):
                await session.execute(statement)
        await started(build(), with_views(views))
        with pytest.raises(SettingsError, match=r"has the store .{8}, but its view store belongs to"):
            await started(build(), Engines(MemoryLog(), store, views))
    finally:
        await store.close()
        await views.close()
        if clear is not None:
            await clear()


@pytest.mark.parametrize(
    ("kind", "url", "said"),
    [
        ("views", "redis://me:hunter2@h:1/2?prefix=p", "in redis://h:1/2: redis-cli --scan --pattern 'p:*' | xargs"),
        ("views", "mongodb://me:hunter2@h:1/x", "in mongodb://h:1/x: db.documents.drop(); db.heads.drop(); db.batches"),
        ("log", "kafka://h:1?prefix=p-", "at kafka://h:1: kafka-topics.sh --delete --topic p-a; kafka-topics.sh"),
        ("log", "rabbitmq://me:hunter2@h:1/?prefix=p-", "for each partition N: rabbitmqctl delete_queue p-a-N; rabbit"),
    ],
)
async def test_what_to_type_has_the_place_and_no_password(kind: Any, url: str, said: str) -> None:
    need_packages(url.partition(":")[0])
    found = open_engine(kind, url).removal(["a", "b"] if kind == "log" else [])
    assert said in found
    assert "hunter2" not in found


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
async def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], Store]]:
    """Opens the store, as each process does for itself."""
    url, clear = await own(request.param, tmp_path)
    opened_stores: list[Store] = []

    def reopened() -> Store:
        opened_stores.append(open_engine("store", url))
        return opened_stores[-1]

    yield reopened
    for store in opened_stores:
        await store.close()
    if clear is not None:
        await clear()


async def test_a_view_store_is_one_installations(views: ViewStore) -> None:
    first = with_views(views)
    await asyncio.gather(*[started(build(keep=True), first) for _ in range(3)])
    await started(build(), first)
    with pytest.raises(SettingsError, match="has a new store, but its view store belongs to shop with the store"):
        await started(build(), with_views(views))
    await views.drop(MARKS, [MARKS])
    await started(build(), first)
    with pytest.raises(SettingsError, match="has a new store, but its view store belongs to shop with the store"):
        await started(build(), with_views(views))


async def test_two_services_share_a_view_store_unless_names_collide(views: ViewStore) -> None:
    shop, books = with_views(views), with_views(views)
    await started(build(), shop)
    with pytest.raises(SettingsError, match="has the view store of 'shop', and both keep the view 'sale' there"):
        await started(build(text=SAME_VIEW), books)
    await started(build(text=OTHER), books)
    await started(build(), shop)


async def test_a_store_is_one_services_and_has_one_incarnation(reopen: Callable[[], Store]) -> None:
    def process() -> Engines:
        return Engines(MemoryLog(), reopen(), MemoryViews())

    engines = [process() for _ in range(3)]
    service = build()
    contexts = [await opened(service, each, timing=TIMING) for each in engines]
    await asyncio.gather(*map(admit, contexts))
    marks = {row.detail for each in engines for row in await all_of(each.store, StoredName) if row.kind == "mark"}
    assert len(marks) == 2
    for partitions in (2, 3):
        stranger = build(("partitions=2", f"partitions={partitions}"), text=OTHER)
        with pytest.raises(SettingsError, match="Service\\(\"books\"\\) has the store of 'shop'"):
            await check_store(make_context(stranger, process(), timing=TIMING))
    with pytest.raises(Exception, match="letters"):  # noqa: PT012 - whatever a driver says of a table that is not there
        async with contexts[0].store.snapshot() as session:
            assert not await session.execute("SELECT 1 FROM mails")
            await session.execute("SELECT 1 FROM letters")


@pytest.mark.parametrize("name", [pytest.param("kafka", marks=IN_TURN), pytest.param("rabbitmq", marks=IN_TURN)])
async def test_a_new_store_on_another_installations_topic_is_refused(name: str) -> None:
    need_packages(name)
    server, tag = url_of("rabbitmq_stream" if name == "rabbitmq" else name), f"t{uuid.uuid4().hex[:10]}"
    log: Log = open_engine("log", f"{server}?prefix={tag}-")
    try:
        first = Engines(log, MemoryStore(), MemoryViews())
        await started(build(), first)
        await started(build(), Engines(log, MemoryStore(), MemoryViews()))  # nothing was sent yet
        context = await started(build(), first)
        await log.append("shop.events", await _events(context))
        with pytest.raises(SettingsError, match=r"its topic shop\.events has events that its empty journal never had"):
            await started(build(), Engines(log, MemoryStore(), MemoryViews()))
        await started(build(), first)
    finally:
        await log.close()
        await sweeping.take_away(name, tag, {"shop": 2})


async def _events(context: Context) -> list[Any]:
    """The journal of an installation that has had two orders."""
    await order(context, "a", "b")
    heads = await context.store.heads()
    return [event for partition in heads for event in await context.store.journal(partition, 0, 10)]
