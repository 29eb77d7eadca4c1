"""Whose stores, view stores and topics are: nobody goes to work on what is another's, and who is at home starts."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from chimera import Service, SettingsError, Unavailable
from chimera.core.context import Context
from chimera.core.names import MARKS, NAMES_TABLE, RELAY
from chimera.core.tables import Progress, StoredName
from chimera.entities import table_of
from chimera.journal.history import Epochs
from chimera.messages import Message
from chimera.ports import Document, Listing, Log, Move
from chimera.run.write_head import WriteHead
from chimera.testing.broken import WrappedLog, WrappedViews
from chimera.testing.engines import sqlite_engines
from chimera.testing.waiting import eventually, running
from chimera.upkeep.admission.marks import MARK, check_apart, check_store, others_events
from chimera.upkeep.admission.naming import admit, misfits
from chimera.upkeep.recovery.epochs import begin_epochs
from chimera.upkeep.recovery.forks import find_fork
from tests.builds import SHOP, build, forget_all
from tests.support import TIME, Engines, all_of, make_context, opened
from tests.upkeep.test_naming import mailed, order
from tests.views.test_rebuild import TIMING

OTHER = (
    SHOP.replace("shop", "books")
    .replace("books = Service", "shop = books = Service")
    .replace("mails", "letters")
    .replace("Sale", "Loan")
)
"""Another service with views and tables of its own."""
SAME_VIEW = OTHER.replace("Loan", "Sale")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    forget_all()


class Installation:
    """A folder with the engines of an installation, which may be closed, put away and brought back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engines = sqlite_engines(folder)

    async def again(self) -> Engines:
        """Its engines, as a new process opens them."""
        await self.engines.close()
        self.engines = sqlite_engines(self.folder)
        return self.engines


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Installation]:
    installation = Installation(tmp_path / "here")
    yield installation
    await installation.engines.close()


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Installation]:
    installation = Installation(tmp_path / "there")
    yield installation
    await installation.engines.close()


async def started(service: Service, engines: Engines) -> Context:
    context = await opened(service, engines, timing=TIMING)
    await admit(context)
    return context


async def worked(service: Service, engines: Engines, *orders: str) -> Context:
    """A process that has started, executed these orders, and sent its events."""
    context = await started(service, engines)
    await order(context, *orders)
    await mailed(context, *orders)
    return context


async def refusal(service: Service, engines: Engines) -> str:
    """What the start is refused with: one line, the same as `chimera check` tells, and nothing is written."""
    context = await opened(service, engines, timing=TIMING)
    before = await written(engines)
    with pytest.raises(SettingsError) as refused:
        await admit(context)
    assert await written(engines) == before
    assert str(refused.value) in await misfits(context)
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def written(engines: Engines) -> tuple[Any, ...]:
    names, checkpoints = await all_of(engines.store, StoredName), await all_of(engines.store, Progress)
    return names, checkpoints, await engines.views.scan(MARKS)


async def incarnation_of(engines: Engines) -> str:
    [found] = [row.detail for row in await all_of(engines.store, StoredName) if row.name == "incarnation"]
    assert re.fullmatch(r"[0-9a-f]{32}", found)
    return str(found)


async def forget_mark(engines: Engines) -> None:
    """As a store is that only builds without marks have used."""
    async with engines.store.transaction() as session:
        await session.execute(f"DELETE FROM {NAMES_TABLE} WHERE kind = ?", (MARK,))


# Stores


async def test_a_store_keeps_its_incarnation_and_another_one_has_another(
    here: Installation, there: Installation
) -> None:
    await worked(build(), here.engines, "a")
    first = await incarnation_of(here.engines)
    await started(build(("    sale.count += 1", "    sale.count += 2")), await here.again())
    assert await incarnation_of(here.engines) == first
    await started(build(), there.engines)
    assert await incarnation_of(there.engines) != first


async def test_a_store_is_known_as_another_services_while_its_journal_is_empty(here: Installation) -> None:
    await started(build(), here.engines)
    said = await refusal(build(text=OTHER), here.engines)
    assert "Service(\"books\") has the store of 'shop', which was the first to start on it" in said
    assert 'call it Service("shop") again' in said
    assert "give [services.books] a store of its own" in said
    await worked(build(), here.engines, "a")


@pytest.mark.parametrize("partitions", [2, 5])
async def test_nothing_is_made_in_the_store_of_another_service(here: Installation, partitions: int) -> None:
    await started(build(), here.engines)
    stranger = build(("partitions=2", f"partitions={partitions}"), text=OTHER)
    with pytest.raises(SettingsError, match="Service\\(\"books\"\\) has the store of 'shop'"):
        await check_store(make_context(stranger, await here.again(), timing=TIMING))
    async with here.engines.store.snapshot() as session:
        assert not await session.execute("SELECT 1 FROM sqlite_master WHERE name = 'letters'")


async def test_of_two_services_that_start_at_once_on_one_store_one_does(here: Installation) -> None:
    services = [build(), build(text=OTHER, keep=True)]
    contexts = [await opened(each, here.engines, timing=TIMING) for each in services]
    results = await asyncio.gather(*map(admit, contexts), return_exceptions=True)
    [refused] = [each for each in results if each is not None]
    assert isinstance(refused, SettingsError)
    assert "has the store of" in str(refused)


async def test_heads_that_start_at_once_agree_on_one_incarnation(here: Installation) -> None:
    service = build()
    for _ in range(2):  # on a new store, and on one of the build before
        contexts = [await opened(service, here.engines, timing=TIMING) for _ in range(4)]
        await asyncio.gather(*map(admit, contexts))
        first = await incarnation_of(here.engines)
        await order(contexts[0], f"o{_}")
        await asyncio.gather(*map(admit, contexts))
        assert await incarnation_of(here.engines) == first
        await forget_mark(here.engines)
        await here.engines.views.drop(MARKS, [MARKS])


async def test_a_store_of_the_build_before_gets_its_mark_at_the_first_start(here: Installation) -> None:
    await worked(build(), here.engines, "a")
    await forget_mark(here.engines)
    await here.engines.views.drop(MARKS, [MARKS])
    await started(build(), here.engines)
    await incarnation_of(here.engines)
    assert len(await here.engines.views.scan(MARKS)) == 1


async def test_a_store_put_back_to_before_it_had_a_mark_is_what_its_view_store_belongs_to(here: Installation) -> None:
    await worked(build(), here.engines, "a")
    first = await incarnation_of(here.engines)
    await forget_mark(here.engines)
    await started(build(), here.engines)
    assert await incarnation_of(here.engines) == first


# View stores


async def test_a_view_store_of_another_installation_is_refused(here: Installation, there: Installation) -> None:
    await worked(build(), here.engines, "a")
    await worked(build(), there.engines, "b")
    mixed = there.engines._replace(views=here.engines.views)
    said = await refusal(build(), mixed)
    this, other = (await incarnation_of(there.engines))[:8], (await incarnation_of(here.engines))[:8]
    assert f'Service("shop") has the store {this}, but its view store belongs to shop with the store {other}' in said
    assert '[services.shop] views = "…"' in said
    assert f"rm -f {here.folder}/views.db {here.folder}/views.db-*" in said
    assert "log" not in said.partition("give this installation")[2].partition("rm -f")[0]
    fresh = await refusal(build(), Engines(there.engines.log, sqlite_engines(there.folder / "new").store, mixed.views))
    assert f'Service("shop") has a new store, but its view store belongs to shop with the store {other}' in fresh


async def test_a_view_store_that_was_wiped_is_marked_anew_and_then_refused_to_others(
    here: Installation, there: Installation
) -> None:
    await worked(build(), here.engines, "a")
    await here.engines.close()
    for each in here.folder.glob("views.db*"):
        each.unlink()
    await started(build(), await here.again())
    await started(build(), there.engines)
    assert "its view store belongs to" in await refusal(build(), there.engines._replace(views=here.engines.views))


@pytest.mark.parametrize("moment", ["marked", "before there were marks"])
async def test_a_view_store_put_back_to_an_earlier_moment_starts(here: Installation, moment: str) -> None:
    await worked(build(), here.engines, "a")
    if moment != "marked":
        await here.engines.views.drop(MARKS, [MARKS])
    await here.engines.close()
    shutil.copytree(here.folder, here.folder.with_name("backup"))
    engines = await here.again()
    context = await started(build(), engines)
    await order(context, "b")
    await mailed(context, "a", "b")
    await engines.close()
    for each in here.folder.glob("views.db*"):
        each.unlink()
    for each in here.folder.with_name("backup").glob("views.db*"):
        shutil.copy(each, here.folder)
    context = await started(build(), await here.again())
    await mailed(context, "a", "b")


@pytest.mark.parametrize("text", [SHOP, OTHER])
async def test_two_services_share_a_view_store_unless_names_collide(
    here: Installation, there: Installation, text: str
) -> None:
    other = SHOP if text is OTHER else OTHER
    context = await started(build(text=text), here.engines)
    if text is SHOP:
        await order(context, "a")
    shared = there.engines._replace(views=here.engines.views)
    await started(build(text=other), shared)
    await started(build(text=text), here.engines)
    await started(build(text=other), shared)


async def test_two_services_with_a_view_of_one_name_on_one_view_store_are_refused(
    here: Installation, there: Installation
) -> None:
    await started(build(), here.engines)
    shared = there.engines._replace(views=here.engines.views)
    said = await refusal(build(text=SAME_VIEW), shared)
    assert "Service(\"books\") has the view store of 'shop', and both keep the view 'sale' there" in said
    assert '[services.books] views = "…"' in said
    await started(build(text=OTHER), shared)
    assert "both keep the view 'sale'" in await refusal(build(text=SAME_VIEW), shared)


async def test_of_two_services_that_start_at_once_with_a_view_of_one_name_one_does(
    here: Installation, there: Installation
) -> None:
    shared = there.engines._replace(views=here.engines.views)
    services = [build(), build(text=SAME_VIEW, keep=True)]
    contexts = [
        await opened(each, engines, timing=TIMING)
        for each, engines in zip(services, (here.engines, shared), strict=True)
    ]
    results = await asyncio.gather(*map(admit, contexts), return_exceptions=True)
    assert [type(each) for each in results if each is not None] == [SettingsError]


async def test_what_an_older_build_has_kept_in_a_view_store_stays_its_services(
    here: Installation, there: Installation
) -> None:
    await started(build(), here.engines)
    await started(build(("Sale", "Deal"), ("view(Deal, ", 'view(Deal, name="deal", ')), here.engines)
    shared = there.engines._replace(views=here.engines.views)
    assert "both keep the view 'sale'" in await refusal(build(text=SAME_VIEW), shared)


async def test_settings_that_give_two_services_one_place_are_refused_before_anything_is_made(
    here: Installation, there: Installation
) -> None:
    shop, books, like = build(), build(text=OTHER, keep=True), build(text=SAME_VIEW, keep=True)
    shared = there.engines._replace(views=here.engines.views)
    first = make_context(shop, here.engines)
    check_apart([first, make_context(books, shared), make_context(shop, here.engines)])
    with pytest.raises(SettingsError, match=r'"books"\) has the same store as .shop.: .*\[services.books\] store = "'):
        check_apart([first, make_context(books, here.engines)])
    with pytest.raises(SettingsError, match=r'both keep the view .sale. there: .*\[services.books\] views = "'):
        check_apart([first, make_context(like, shared)])
    assert not here.folder.exists()


# Topics


async def test_a_new_store_on_the_topic_of_another_installation_is_refused(
    here: Installation, there: Installation
) -> None:
    await worked(build(), here.engines, "a")
    said = await refusal(build(), there.engines._replace(log=here.engines.log))
    assert 'Service("shop") has a new store, but its topic shop.events has events that its empty journal never' in said
    assert re.search(r"such as shop/[01]@1: give this installation its own, as \[services.shop\] log = ", said)
    assert (
        f"rm -f {here.folder}/log/shop.events.db {here.folder}/log/shop.events.db-* {here.folder}/log/shop.comm" in said
    )
    await worked(build(), there.engines, "b")


async def test_a_new_store_that_was_recovered_to_go_on_with_a_topic_starts(
    here: Installation, there: Installation
) -> None:
    await worked(build(), here.engines, "a")
    context = await opened(build(), there.engines._replace(log=here.engines.log), timing=TIMING)
    began = Epochs(())
    found = [await find_fork(context, partition, began) for partition in range(2)]
    await begin_epochs(context, [fork for fork in found if fork is not None])
    await admit(context)


@pytest.mark.parametrize("sent", [True, False], ids=["its relay had sent", "its relay had sent nothing yet"])
async def test_a_store_put_back_to_an_earlier_moment_starts_and_goes_on(here: Installation, sent: bool) -> None:
    await worked(build(), here.engines, "a")
    if not sent:
        async with here.engines.store.transaction() as session:
            rows = await session.find(table_of(Progress), {"consumer": [RELAY]})
            await session.delete(table_of(Progress), [table_of(Progress).key_of(row) for row in rows])
    await here.engines.close()
    backup = shutil.copy(here.folder / "store.db", here.folder / "backup")
    context = await started(build(), await here.again())
    await order(context, *"bcdefg")
    await mailed(context, *"abcdefg")
    await here.engines.close()
    shutil.move(backup, here.folder / "store.db")
    context = await started(build(), await here.again())
    await order(context, "x")
    assert sum((await context.store.heads()).values()) == 2


async def test_a_store_put_back_to_before_its_first_event_starts_and_goes_on(here: Installation) -> None:
    await started(build(), here.engines)
    await here.engines.close()
    backup = shutil.copy(here.folder / "store.db", here.folder / "backup")
    await worked(build(), await here.again(), "a")
    await here.engines.close()
    shutil.move(backup, here.folder / "store.db")
    await started(build(), await here.again())


async def test_what_somebody_else_has_written_does_not_make_a_topic_another_installations(here: Installation) -> None:
    engines = here.engines
    await opened(build(), engines, timing=TIMING)
    forged = Message("forged", "shop", "shop.Forged", "k", TIME, b"{}", 0, 10**9)
    other = Message("other", "other", "other.Happened", "k", TIME, b"{}", 1, 1, chain="0" * 32)
    await engines.log.append("shop.events", [forged, other])
    await started(build(), engines)


async def test_commands_that_came_before_the_first_write_head_are_no_strangers(here: Installation) -> None:
    context = await started(build(), here.engines)
    command = Message("c1", "shop", "shop.Place", "a", TIME, b'{"order_id":"a"}', 1)
    await context.log.append("shop.commands", [command])
    await mailed(await started(build(), here.engines), "a")


# Development


async def test_a_folder_that_was_deleted_whole_starts_anew(here: Installation) -> None:
    await worked(build(), here.engines, "a")
    await here.engines.close()
    shutil.rmtree(here.folder)
    await worked(build(), await here.again(), "b")


async def test_where_only_the_stores_file_was_deleted_what_to_type_is_said(here: Installation) -> None:
    await worked(build(), here.engines, "a")
    await here.engines.close()
    for each in here.folder.glob("store.db*"):
        each.unlink()
    said = await refusal(build(), await here.again())
    assert "has a new store, but its view store belongs to shop with the store" in said
    assert "and its topic shop.events has events that its empty journal never had" in said
    typed = said.rpartition("is given up: ")[2]
    await here.engines.close()
    typing = await asyncio.create_subprocess_shell(typed)
    assert await typing.wait() == 0
    assert sorted(each.name for each in here.folder.rglob("*.db")) == ["store.db"]
    await worked(build(), await here.again(), "b")


# Races


class Late(WrappedLog):
    """A log whose first look at its ends comes back when another head has worked."""

    def __init__(self, log: Log, meanwhile: Any) -> None:
        super().__init__(log, every=10**9)
        self._meanwhile = meanwhile

    async def ends(self, topic: str) -> Mapping[int, int]:
        if meanwhile := self._meanwhile:
            self._meanwhile = None
            await meanwhile()
        return await self._log.ends(topic)


class Slow(WrappedViews):
    """A view store whose first answer about marks comes when another head has worked."""

    meanwhile: Any = None
    before = True

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        meanwhile = self.meanwhile if view == MARKS else None
        if meanwhile and self.before:
            self.meanwhile = None
            await meanwhile()
        found = await super().get(view, keys)
        if meanwhile and not self.before:
            self.meanwhile = None
            await meanwhile()
        return found


NEW = "the log's ends"
MOMENTS = itertools.product(["before the marks", "after the marks"], ["new", "of the build before", "admitted"])


@pytest.mark.parametrize(
    ("judge", "where", "was"),
    [(others_events, NEW, "new"), (admit, NEW, "new"), *((admit, where, was) for where, was in MOMENTS)],
)
async def test_a_head_starts_whenever_another_has_begun_to_work(
    here: Installation, judge: Callable[[Context], Awaitable[object]], where: str, was: str
) -> None:
    service, engines = build(), here.engines
    first = await opened(service, engines, timing=TIMING)
    if was != "new":
        await admit(first)
    if was == "of the build before":
        await forget_mark(engines)
        await engines.views.drop(MARKS, [MARKS])

    async def work() -> None:
        await admit(first)
        await order(first, "a", "b")

        async def is_sent() -> bool:
            return sum((await engines.log.ends("shop.events")).values()) == 2

        async with running(WriteHead(first, "first").run()):
            await eventually(is_sent)
        async with engines.store.transaction() as session:  # as long as the relay has not written down how far it is
            rows = await session.find(table_of(Progress), {"consumer": [RELAY]})
            await session.delete(table_of(Progress), [table_of(Progress).key_of(row) for row in rows])

    views = Slow(engines.views)
    log = Late(engines.log, work) if where == NEW else engines.log
    if log is engines.log:
        views.meanwhile, views.before = work, where == "before the marks"
    second = await opened(service, engines._replace(log=log, views=views), timing=TIMING)
    assert not await judge(second)
    assert sum((await engines.store.heads()).values()) == 2
    await admit(second)
    await mailed(second, "a", "b")


class Shaky(WrappedViews):
    """A view store that is away when it is to be marked, before or after it has done so."""

    away: str = ""

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        away, self.away = self.away, ""
        if away == "before":
            raise Unavailable("it is away")
        written = await super().write(consumer, documents, moves, listings)
        if away == "after":
            raise Unavailable("it is away")
        return written


@pytest.mark.parametrize("away", ["before", "after"])
async def test_a_start_that_was_cut_short_is_taken_up_where_it_was(here: Installation, away: str) -> None:
    views = Shaky(here.engines.views)
    views.away = away
    context = await opened(build(), here.engines._replace(views=views), timing=TIMING)
    with pytest.raises(Unavailable):
        await admit(context)
    first = await incarnation_of(here.engines)
    contexts = [context, *[await opened(context.service, here.engines, timing=TIMING) for _ in range(2)]]
    await asyncio.gather(*map(admit, contexts))
    assert await incarnation_of(here.engines) == first
    [document] = await here.engines.views.scan(MARKS)
    assert first.encode() in (document.data or b"")
