"""A query's look at the source of truth: one moment, however much it reads, and one round trip for many requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chimera.core.context import Context
from chimera.entities import table_of
from chimera.errors import Rejected, Unavailable
from chimera.ports import Session
from chimera.testing.broken import WrappedSession, WrappedStore
from chimera.web.snapshots import Snapshots
from tests.support import Account, Bank, Deposit, Engines, Open, direct, opened

ACCOUNTS = table_of(Account)
Store = tuple[Context, "Watched"]


class Watched(WrappedStore):
    """Notes the keys of every load, by snapshot."""

    def __init__(self, engines: Engines) -> None:
        super().__init__(engines.store)
        self.loads: list[list[list[Any]]] = []
        self.is_down = False

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        if self.is_down:
            raise Unavailable("the store is down")
        async with super().snapshot(once=once) as session:
            self.loads.append([])
            yield _Watched(session, self.loads[-1])


class _Watched(WrappedSession):
    def __init__(self, session: Any, loads: list[list[Any]]) -> None:
        super().__init__(session)
        self._loads = loads

    async def load(self, table: Any, keys: Sequence[Any]) -> Any:
        self._loads.append([key for (key,) in keys])
        return await super().load(table, keys)


@pytest.fixture
async def watched(bank: Bank, engines: Engines) -> Store:
    store = Watched(engines)
    context = await opened(bank.service, engines._replace(store=store))
    await direct(context, *(Open(key) for key in "abc"))
    return context, store


@pytest.fixture
async def looks(watched: Store) -> Snapshots:
    """Looks that have learned the dialect, which the first one of a process does."""
    snapshots = Snapshots(watched[1])
    await snapshots.look(balance_of("a"))
    watched[1].loads.clear()
    return snapshots


def balance_of(key: Any) -> Callable[[Session], Awaitable[int | None]]:
    async def work(session: Session) -> int | None:
        rows = await session.load(ACCOUNTS, [(key,)])
        return ACCOUNTS.from_row(rows[0]).balance if rows else None

    return work


async def test_rows_that_many_requests_ask_for_in_one_loop_turn_are_one_read(looks: Snapshots, watched: Store) -> None:
    context, store = watched
    await direct(context, Deposit("b", 5))
    store.loads.clear()
    found = await asyncio.gather(*(looks.look(balance_of(key)) for key in ["a", "b", "none", "a"]))
    assert found == [0, 5, None, 0]
    assert store.loads == [[["a", "b", "none"]]]


async def test_a_request_sees_what_was_committed_before_it(looks: Snapshots, watched: Store) -> None:
    for balance in range(1, 4):
        await direct(watched[0], Deposit("a", 1))
        assert await looks.look(balance_of("a")) == balance


async def test_more_reads_are_of_one_moment_and_nothing_is_asked_twice(looks: Snapshots, watched: Store) -> None:
    context, _ = watched
    times = 0

    async def work(session: Session) -> list[int | None]:
        nonlocal times
        times += 1
        first, second = await balance_of("a")(session), await balance_of("b")(session)
        await direct(context, Deposit("a", 1), Deposit("c", 1))
        return [first, second, await balance_of("a")(session), await balance_of("c")(session)]

    assert await looks.look(work) == [0, 0, 0, 0]
    assert times == 1


@pytest.mark.parametrize("ends", ["well", "with an error"])
async def test_a_look_whose_first_row_changed_before_it_read_on_begins_anew(
    looks: Snapshots, watched: Store, ends: str
) -> None:
    context, _ = watched
    seen: list[tuple[int | None, int | None]] = []

    async def work(session: Session) -> tuple[int | None, int | None]:
        first = await balance_of("a")(session)
        if not seen:
            await direct(context, Deposit("a", 7), Deposit("b", 7))
        seen.append((first, await balance_of("b")(session)))
        if ends == "with an error" and first != seen[-1][1]:
            raise Rejected("two moments")
        return seen[-1]

    assert await looks.look(work) == (7, 7)
    assert seen == [(0, 7), (7, 7)]


async def test_an_error_of_a_look_at_one_moment_is_its_answer(looks: Snapshots) -> None:
    times = 0

    async def work(session: Session) -> None:
        nonlocal times
        times += 1
        await balance_of("a")(session)
        await balance_of("b")(session)
        raise Rejected("no")

    with pytest.raises(Rejected):
        await looks.look(work)
    assert times == 1


async def test_reads_of_one_request_at_the_same_time_are_of_one_moment(looks: Snapshots) -> None:
    async def work(session: Session) -> list[int | None]:
        return await asyncio.gather(*(balance_of(key)(session) for key in "abc"))

    assert await looks.look(work) == [0, 0, 0]


async def test_a_key_that_nobody_can_look_up_fails_for_who_asks_for_it_only(looks: Snapshots) -> None:
    found = await asyncio.gather(
        *(looks.look(balance_of(key)) for key in ["a", {"no": "key"}, "b"]), return_exceptions=True
    )
    assert (found[0], found[2]) == (0, 0)
    assert isinstance(found[1], Exception)


async def test_a_store_that_is_down_is_told_to_all_and_asked_once(looks: Snapshots, watched: Store) -> None:
    watched[1].is_down = True
    found = await asyncio.gather(*(looks.look(balance_of(key)) for key in "ab"), return_exceptions=True)
    assert [type(each) for each in found] == [Unavailable, Unavailable]
    watched[1].is_down = False
    assert await looks.look(balance_of("a")) == 0


async def test_nothing_is_read_once_the_request_has_ended(looks: Snapshots) -> None:
    kept: list[Session] = []

    async def work(session: Session) -> None:
        kept.append(session)

    await looks.look(work)
    with pytest.raises(RuntimeError, match="has ended"):
        await kept[0].load(ACCOUNTS, [("a",)])


async def test_the_dialect_is_known_from_the_first_look(watched: Store) -> None:
    snapshots = Snapshots(watched[1])

    async def dialect(session: Session) -> str:
        return session.dialect

    async with watched[1].snapshot() as session:
        assert [await snapshots.look(dialect), await snapshots.look(dialect)] == [session.dialect] * 2
