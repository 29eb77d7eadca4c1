"""A borrower never fails because of an owner (invariant 7)."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest

from chimera import Borrowed, Unavailable
from chimera.adapters.last_known import Patience
from chimera.borrow.breaker import FAILURES as BREAKING
from chimera.borrow.breaker import Breaker
from chimera.borrow.copies import copy_projection
from chimera.borrow.fetch import CALLS
from chimera.borrow.last_known import MemoryLastKnown
from chimera.borrow.modes import CopyFloor
from chimera.borrow.reads import BorrowedReads
from chimera.core.context import Context
from chimera.core.names import copy_name, share_type
from chimera.core.timing import Limits
from chimera.journal.feed import Batch
from chimera.messages import Message, Position, partition_of
from chimera.parts import Mode
from chimera.ports import Checkpoint, ConsumerAt, Document, Epoch, Fetched, LastKnown, Move
from chimera.reader import Notes
from chimera.share.changes import change_data
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually, running
from chimera.views.documents import Documents
from chimera.views.generations import GenerationReads
from chimera.views.projector import Projector
from tests.borrow.leaping import LeapingLoop, LoopClock
from tests.support import QUICK, Card, Shop, opened, settle

LOOP = LeapingLoop
BUDGET = 0.05
SLACK = 0.001
MODES: tuple[Mode, ...] = ("sync", "async", "hybrid")


def now() -> float:
    """The seconds that were waited for."""
    return asyncio.get_running_loop().time()


class Owner:
    """An owner that behaves as told."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.positions: dict[str, Position] = {}
        self.behaviour: Any = "answers"
        self.calls: list[list[str]] = []
        self.counts: dict[int, int] = {0: 0}

    def was_called(self, times: int) -> bool:
        return len(self.calls) == times

    def put(self, key: str, balance: int = 0) -> None:
        self.documents[key] = msgspec.json.encode(Card(key, balance))

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        self.calls.append(list(keys))
        await self._behave()
        documents = {key: self.documents[key] for key in keys if key in self.documents}
        return Fetched(documents, {key: self.positions[key] for key in keys if key in self.positions})

    async def _behave(self) -> None:
        match self.behaviour:
            case "hangs":
                await asyncio.sleep(3600)
            case float():
                await asyncio.sleep(self.behaviour)
            case BaseException():
                raise self.behaviour

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return []

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        return {}

    async def epochs(self) -> Sequence[Epoch]:
        return []

    async def heads(self) -> Mapping[int, int]:
        await self._behave()
        return self.counts

    async def report(self, consumers: Sequence[ConsumerAt]) -> None: ...

    async def close(self) -> None: ...


class Borrower:
    """A shop with an owner under control."""

    def __init__(self, context: Context, shop: Shop, owner: Owner) -> None:
        self.context = context
        self.owner = owner
        self.borrow = shop.cards
        self.reads = BorrowedReads(context, shop.cards, Documents(context, GenerationReads(context)))
        self._number = 0

    async def get(self, key: str) -> Borrowed[Card]:
        """The borrowed value; fails when it takes longer than the budget."""
        started = now()
        found = await self.reads.get(key)
        assert now() - started < self.borrow.budget + SLACK
        return found

    @property
    def remembered(self) -> MemoryLastKnown:
        """What this process remembers as last known."""
        assert isinstance(self.context.last_known, MemoryLastKnown)
        return self.context.last_known

    async def keep(self, key: str, data: bytes | None) -> None:
        """Put a document into the copy, as the write head would."""
        name = copy_name(self.borrow.name, self.reads.mode)
        revision = found.revision if (found := (await self.context.views.get(name, [key])).get(key)) else 0
        self._number += 1
        self.owner.counts[0] = self._number
        move = Move("accounts", 0, self._number - 1, Checkpoint(self._number))
        assert await self.context.views.write(name, [Document(name, key, data, revision)], [move])
        self.context.moved.notify()


async def borrower(mode: Mode, *, max_age: float = 5.0, budget: float = BUDGET, **options: Any) -> Borrower:
    """A shop that borrows in this mode; `options` are those of `opened`."""
    owner, shop = Owner(), Shop(mode=mode, budget=budget, max_age=max_age)
    context = await opened(shop.service, memory_engines(), owners={"accounts": owner}, clock=LoopClock(), **options)
    found = Borrower(context, shop, owner)
    await settle(found.reads)
    return found


FAILURES = [Unavailable("down"), "hangs", RuntimeError("a bug in the client"), OSError("reset"), 0.2]


# sync


async def test_sync_gives_what_the_owner_has_now() -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 5)
    assert await shop.get("a") == Borrowed(Card("a", 5), "fresh", 0.0)
    shop.owner.put("a", 6)
    assert (await shop.get("a")).value == Card("a", 6)


async def test_sync_says_absent_for_what_the_owner_does_not_have() -> None:
    shop = await borrower("sync")
    assert await shop.get("nobody") == Borrowed(None, "absent", 0.0)


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_sync_gives_the_last_known_value_as_stale_with_its_age_when_the_owner_fails(failure: Any) -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 5)
    before = now()
    await shop.get("a")
    shop.owner.behaviour = failure
    await asyncio.sleep(0.01)
    found = await shop.get("a")
    assert (found.value, found.state) == (Card("a", 5), "stale")
    assert found.age is not None
    assert 0.01 <= found.age <= now() - before


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_sync_says_absent_without_an_age_when_nothing_was_ever_known(failure: Any) -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 5)
    shop.owner.behaviour = failure
    assert await shop.get("a") == Borrowed(None, "absent", None)


async def test_sync_is_fresh_again_when_the_owner_is_back() -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 5)
    shop.owner.behaviour = Unavailable("down")
    await shop.get("a")
    shop.owner.behaviour = "answers"
    assert (await shop.get("a")).state == "fresh"


GARBAGE = [b'{"account_id":"a","balance":"much"}', b"{}", b"null", b"[]", b"nonsense", b"", b'{"account_id":"\xff"}']


@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
async def test_garbage_is_never_given_nor_remembered_and_does_not_hurt_the_other_keys(garbage: bytes) -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 5)
    shop.owner.put("b", 6)
    await shop.get("a")
    shop.owner.documents["a"] = garbage
    bad, good = await asyncio.gather(shop.get("a"), shop.get("b"))
    assert (bad.value, bad.state) == (Card("a", 5), "stale")
    assert (good.value, good.state) == (Card("b", 6), "fresh")
    shop.owner.behaviour = Unavailable("down")
    assert (await shop.get("a")).value == Card("a", 5)


@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
async def test_garbage_is_absent_when_nothing_else_is_known(garbage: bytes) -> None:
    shop = await borrower("sync")
    shop.owner.documents["a"] = garbage
    assert await shop.get("a") == Borrowed(None, "absent", None)


@pytest.mark.parametrize("answer", [None, [], "text", {"a": "text"}, {"a": 5}], ids=repr)
async def test_an_owner_that_answers_with_something_else_altogether_is_an_owner_that_failed(answer: Any) -> None:
    shop = await borrower("sync")

    async def fetch(share: str, keys: Sequence[str]) -> Any:
        return answer

    shop.owner.fetch = fetch  # type: ignore[method-assign]
    found = await shop.get("a")
    assert (found.value, found.state) == (None, "absent")


async def test_what_the_owner_removed_is_not_remembered() -> None:
    shop = await borrower("sync", timing=msgspec.structs.replace(QUICK, absent_s=0.0))
    shop.owner.put("a", 5)
    await shop.get("a")
    shop.owner.documents.clear()
    assert (await shop.get("a")).state == "absent"
    shop.owner.behaviour = Unavailable("down")
    assert await shop.get("a") == Borrowed(None, "absent", None)


async def test_all_keys_of_a_loop_turn_are_one_call_in_which_each_key_is_once() -> None:
    shop = await borrower("sync")
    for key in "abc":
        shop.owner.put(key, 1)
    found = await asyncio.gather(*(shop.get(key) for key in "abcab"))
    assert [borrowed.value and borrowed.value.account_id for borrowed in found] == list("abcab")
    assert shop.owner.calls == [["a", "b", "c"]]


async def test_a_slow_answer_is_remembered_for_the_next_time() -> None:
    shop = await borrower("sync", budget=0.01)
    shop.owner.put("a", 5)
    shop.owner.behaviour = 0.03
    assert (await shop.get("a")).state == "absent"
    await eventually(lambda: shop.remembered._values)
    assert (await shop.get("a")).state == "stale"


async def test_a_read_that_is_cancelled_leaves_no_trace() -> None:
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
    shop = await borrower("sync")
    shop.owner.behaviour = 0.005
    failing = shop.owner.fetch

    async def fetch(share: str, keys: Sequence[str]) -> Any:
        await failing(share, keys)
        raise Unavailable("down")

    shop.owner.fetch = fetch  # type: ignore[method-assign]
    reading = asyncio.ensure_future(shop.reads.get("a"))
    await asyncio.sleep(0.001)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    del reading
    await shop.reads._fetches.drain()
    await asyncio.sleep(0)
    gc.collect()
    assert noise == []


class Cache:
    """Last known values in a server that answers as told."""

    wait_s = 0.01

    def __init__(self) -> None:
        self.kept = MemoryLastKnown(LoopClock())
        self.behaviour: Any = "answers"

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, LastKnown]:
        return await Patience("cache", wait_s=self.wait_s).ask(lambda: self._get(keys), {})

    async def _get(self, keys: Sequence[str]) -> Mapping[str, LastKnown]:
        await self._behave()
        return await self.kept.get_many(keys)

    async def put_many(self, values: Mapping[str, bytes | None]) -> None:
        await self._behave()
        await self.kept.put_many(values)

    async def _behave(self) -> None:
        if self.behaviour == "hangs":
            await asyncio.sleep(3600)

    async def close(self) -> None: ...


async def test_what_another_process_was_told_is_known_here_too() -> None:
    cache = Cache()
    one, other = [await borrower("sync", last_known=cache) for _ in range(2)]
    one.owner.put("a", 5)
    await one.get("a")
    await eventually(lambda: cache.kept._values)
    other.owner.behaviour = Unavailable("down")
    found = await other.get("a")
    assert (found.value, found.state) == (Card("a", 5), "stale")


async def test_a_page_waits_for_neither_the_owner_nor_the_cache_beyond_its_budget() -> None:
    cache = Cache()
    shop = await borrower("sync", budget=0.2, last_known=cache)
    cache.behaviour = shop.owner.behaviour = "hangs"
    started = now()
    found = await shop.get("a")
    assert (found.state, found.age) == ("absent", None)
    assert now() - started < 0.2 + SLACK


async def test_a_fresh_answer_does_not_wait_until_it_is_remembered() -> None:
    cache = Cache()
    shop = await borrower("sync", budget=1.0, last_known=cache)
    cache.behaviour = "hangs"
    shop.owner.put("a", 5)
    started = now()
    assert (await shop.get("a")).state == "fresh"
    assert now() - started < SLACK


async def test_what_waits_to_be_remembered_is_bounded_and_what_is_not_remembered_is_answered_all_the_same() -> None:
    cache = Cache()
    shop = await borrower("sync", budget=1.0, last_known=cache, limits=Limits(keeps=5))
    cache.behaviour = "hangs"
    for n in range(40):
        shop.owner.put(f"k{n}", n)
        assert (await shop.get(f"k{n}")).state == "fresh"
    assert len(shop.reads._fetches._keeps) == 5


async def test_a_remembered_value_of_another_shape_is_absent() -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 5)
    await shop.get("a")
    [name] = shop.remembered._values
    await shop.remembered.put_many({name: b'{"another": "shape"}'})
    shop.owner.behaviour = Unavailable("down")
    assert await shop.get("a") == Borrowed(None, "absent", None)


# async


async def test_async_gives_the_copy_without_asking_the_owner() -> None:
    shop = await borrower("async")
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    await shop.reads._age.watch("async")
    found = await shop.get("a")
    assert (found.value, found.state) == (Card("a", 5), "fresh")
    assert found.age is not None
    assert found.age < 1.0
    assert shop.owner.calls == []


async def test_async_says_absent_for_a_key_without_a_document_and_after_its_removal() -> None:
    shop = await borrower("async")
    shop.owner.behaviour = Unavailable("down")
    assert await shop.get("a") == Borrowed(None, "absent", None)
    shop.owner.behaviour = "answers"
    assert await shop.get("a") == Borrowed(None, "absent", 0.0)
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    await shop.keep("a", None)
    await shop.reads._age.watch("async")
    found = await shop.get("a")
    assert (found.value, found.state) == (None, "absent")
    assert found.age is not None


async def test_a_copy_is_stale_before_it_was_ever_compared_with_the_owner() -> None:
    shop = await borrower("async")
    shop.owner.behaviour = Unavailable("down")
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    assert await shop.get("a") == Borrowed(Card("a", 5), "stale", None)


async def test_a_copy_goes_stale_while_the_owner_can_not_be_asked_and_is_fresh_again_afterwards() -> None:
    timing = msgspec.structs.replace(QUICK, switch_look_s=0.01, heads_kept_s=0.0)
    shop = await borrower("async", max_age=0.05, timing=timing)
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))

    async def state() -> str:
        return (await shop.get("a")).state

    async with running(shop.reads.keep_looking()):
        await eventually(lambda: _is(state, "fresh"))
        shop.owner.behaviour = Unavailable("down")
        await eventually(lambda: _is(state, "stale"))
        found = await shop.get("a")
        assert found.value == Card("a", 5)
        assert found.age is not None
        assert found.age > 0.05
        shop.owner.behaviour = "answers"
        await eventually(lambda: _is(state, "fresh"))


async def _is(state: Callable[[], Awaitable[str]], wanted: str) -> bool:
    return await state() == wanted


async def test_a_copy_that_lags_behind_the_owner_is_not_called_fresh() -> None:
    shop = await borrower("async", max_age=0.02)
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    shop.owner.counts = {0: 100}
    await shop.reads._age.watch("async")
    shop.owner.behaviour = Unavailable("down")
    assert (await shop.get("a")).state == "stale"


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_async_answers_whatever_the_owner_does(failure: Any) -> None:
    shop = await borrower("async")
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    await shop.reads._age.watch("async")
    shop.owner.behaviour = failure
    found = await shop.get("a")
    assert (found.value, found.state) == (Card("a", 5), "fresh")


async def test_a_copy_of_an_older_shape_than_the_borrower_expects_does_not_break_the_page() -> None:
    shop = await borrower("async")
    await shop.keep("a", b'{"account_id":"a"}')
    shop.owner.behaviour = Unavailable("down")
    found = await shop.get("a")
    assert (found.value, found.state) == (None, "absent")
    shop.owner.put("a", 5)
    shop.owner.behaviour = "answers"
    assert await shop.get("a") == Borrowed(Card("a", 5), "fresh", 0.0)


async def test_a_copy_that_is_too_old_is_refreshed_from_the_owner_in_time_or_else_said_to_be_stale() -> None:
    shop = await borrower("async", max_age=0.02)
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    await shop.reads._age.watch("async")
    assert (await shop.get("a")).value == Card("a", 5)
    assert shop.owner.calls == []
    shop.owner.put("a", 6)
    await asyncio.sleep(0.03)
    assert await shop.get("a") == Borrowed(Card("a", 6), "fresh", 0.0)
    shop.owner.behaviour = "hangs"
    found = await shop.get("a")
    assert (found.value, found.state) == (Card("a", 5), "stale")


# read your own writes


@pytest.mark.parametrize("mode", MODES)
async def test_who_brings_a_position_back_sees_what_the_owner_did_there_before_the_copy_has_it(mode: Mode) -> None:
    shop = await borrower(mode)
    shop.owner.put("a", 6)
    if mode != "sync":
        await shop.keep("a", b"true" if mode == "hybrid" else msgspec.json.encode(Card("a", 5)))
        await shop.reads._age.watch(mode)
    notes = Notes([Position("accounts", 0, 7)])
    assert await shop.reads.get("a", notes) == Borrowed(Card("a", 6), "fresh", 0.0)
    assert notes.behind == []
    shop.owner.behaviour = Unavailable("down")
    found = await shop.reads.get("a", notes)
    assert found.state == "stale"
    assert notes.behind == [Position("accounts", 0, 1 if mode == "async" else 0)]


@pytest.mark.parametrize("mode", MODES)
async def test_who_brings_a_position_back_is_not_given_the_answer_to_an_earlier_call(mode: Mode) -> None:
    shop = await borrower(mode, budget=0.5)
    if mode != "sync":
        await shop.keep("a", b"true")
    shop.owner.put("a", 5)
    shop.owner.behaviour = 0.05
    early = asyncio.ensure_future(shop.reads._fetches.get("a", now() + 0.5))
    await eventually(lambda: shop.owner.calls)
    after = asyncio.ensure_future(shop.reads.get("a", Notes([Position("accounts", 0, 7)])))
    await eventually(lambda: len(shop.owner.calls) == 2)
    await asyncio.gather(early, after)


async def test_a_copy_that_has_the_position_is_enough() -> None:
    shop = await borrower("async")
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    await shop.reads._age.watch("async")
    notes = Notes([Position("accounts", 0, 1)])
    assert (await shop.reads.get("a", notes)).value == Card("a", 5)
    assert shop.owner.calls == []
    assert notes.behind == []


async def test_who_brings_a_position_back_is_not_told_of_an_absence_from_before_it() -> None:
    shop = await borrower("hybrid")
    await shop.reads._age.watch("hybrid")
    asked = await shop.reads._fetches.get("a", now() + 0.5, anew=True)
    assert asked.value is None  # which is remembered for a moment
    shop.owner.put("a", 5)
    await shop.keep("a", b"true")
    notes = Notes([Position("accounts", 0, 1)])
    assert await shop.reads.get("a", notes) == Borrowed(Card("a", 5), "fresh", 0.0)


@pytest.mark.parametrize("mode", MODES)
async def test_who_brings_a_position_back_waits_no_longer_than_the_budget_for_an_owner_that_hangs(mode: Mode) -> None:
    shop = await borrower(mode)
    if mode != "sync":
        await shop.keep("a", b"true" if mode == "hybrid" else msgspec.json.encode(Card("a", 5)))
    shop.owner.behaviour = "hangs"
    started = now()
    found = await shop.reads.get("a", Notes([Position("accounts", 0, 7)]))
    assert now() - started < BUDGET + SLACK
    assert found.state == ("stale" if mode == "async" else "absent")


# asking the owner


async def test_readers_of_one_key_share_one_call_also_when_it_is_under_way() -> None:
    shop = await borrower("sync", budget=0.5)
    shop.owner.put("a", 5)
    shop.owner.behaviour = 0.05
    first = asyncio.ensure_future(shop.get("a"))
    await eventually(lambda: shop.owner.calls)
    found = await asyncio.gather(first, *(shop.get("a") for _ in range(50)))
    assert all(each.value == Card("a", 5) for each in found)
    assert shop.owner.calls == [["a"]]


async def test_that_a_key_has_nothing_is_remembered_for_a_moment() -> None:
    shop = await borrower("sync", timing=msgspec.structs.replace(QUICK, absent_s=0.05))
    for _ in range(5):
        assert (await shop.get("a")).state == "absent"
    assert shop.owner.calls == [["a"]]
    shop.owner.put("a", 5)
    assert (await shop.reads.get("a", Notes([Position("accounts", 0, 1)]))).value == Card("a", 5)
    assert (await shop.get("a")).value == Card("a", 5)


async def test_absences_that_are_remembered_are_bounded() -> None:
    shop = await borrower("sync", limits=Limits(absent_keys=3))
    for number in range(5):
        await shop.get(f"k{number}")
    assert list(shop.reads._fetches._absent) == ["k2", "k3", "k4"]


async def test_no_more_than_a_few_calls_are_under_way_and_no_more_than_so_many_keys_wait() -> None:
    shop = await borrower("sync", limits=Limits(flights=10))
    shop.owner.behaviour = "hangs"
    under_way = []
    for number in range(30):
        under_way.append(asyncio.ensure_future(shop.get(f"k{number}")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert len(shop.owner.calls) == CALLS
    assert len(shop.reads._fetches._queued) <= 10
    assert {(await each).state for each in under_way} == {"absent"}


async def test_an_owner_that_keeps_failing_is_left_alone_and_pages_do_not_wait_for_it() -> None:
    shop = await borrower("sync", budget=0.2)
    shop.owner.put("a", 5)
    await shop.get("a")
    shop.owner.behaviour = Unavailable("down")
    for _ in range(20):
        assert (await shop.get("a")).state == "stale"
    assert len(shop.owner.calls) == 1 + BREAKING
    shop.owner.behaviour = "hangs"
    started = now()
    assert (await shop.get("a")).state == "stale"
    assert now() - started < SLACK
    text = shop.context.metrics.exposition().decode()
    assert 'chimera_owner_circuit_open{service="shop",share="cards"} 1.0' in text


async def test_one_call_at_a_time_tries_an_owner_that_was_left_alone_and_success_ends_it() -> None:
    shop = await borrower("sync", budget=0.5)
    shop.reads._fetches._breaker = Breaker(LoopClock(), pause_s=0.02)
    shop.owner.put("a", 5)
    shop.owner.behaviour = Unavailable("down")
    for _ in range(BREAKING):
        await shop.get("a")
    await asyncio.sleep(0.03)
    shop.owner.calls.clear()
    shop.owner.behaviour = 0.03
    probe = asyncio.ensure_future(shop.get("a"))
    await eventually(lambda: shop.owner.calls)
    others = await asyncio.gather(*(shop.get(f"k{number}") for number in range(5)))
    assert {other.state for other in others} == {"absent"}
    assert (await probe).state == "fresh"
    assert shop.owner.calls == [["a"]]
    assert (await shop.get("a")).state == "fresh"


async def test_only_one_page_waits_for_an_owner_that_hangs_while_all_calls_do() -> None:
    shop = await borrower("sync", budget=0.2)
    breaker = shop.reads._fetches._breaker = Breaker(LoopClock(), pause_s=0.02)
    shop.owner.behaviour = "hangs"
    for number in range(CALLS):
        flight = asyncio.ensure_future(shop.get(f"k{number}"))
        await eventually(partial(shop.owner.was_called, number + 1))
    await flight
    await eventually(lambda: breaker.state == "half-open")
    probe = asyncio.ensure_future(shop.get("probe"))
    await asyncio.sleep(0)
    started = now()
    await asyncio.gather(*(shop.get(f"k{number}") for number in range(100)))
    assert now() - started < SLACK
    assert not probe.done()
    assert len(shop.owner.calls) == CALLS
    await probe
    await eventually(lambda: shop.owner.calls[CALLS:] == [["probe"]])


class Told(LoopClock):
    """A clock that says what it is told."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_a_breaker_opens_after_failures_in_a_row_tries_once_and_opens_or_closes_again() -> None:
    clock = Told()
    breaker = Breaker(clock, failures=2, pause_s=1.0)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.admits()
    breaker.failed()
    assert (breaker.state, breaker.admits()) == ("open", False)
    clock.now_s = 1.0
    assert (breaker.state, breaker.admits()) == ("half-open", True)
    assert not breaker.admits()
    breaker.failed()
    assert (breaker.state, breaker.admits()) == ("open", False)
    clock.now_s = 2.0
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.admits()
    assert breaker.admits()


# hybrid


async def test_hybrid_asks_the_owner_only_for_known_keys() -> None:
    shop = await borrower("hybrid")
    await shop.keep("a", b"true")
    shop.owner.put("a", 5)
    shop.owner.put("b", 5)
    await shop.reads._age.watch("hybrid")
    known, unknown = await asyncio.gather(shop.get("a"), shop.get("b"))
    assert known == Borrowed(Card("a", 5), "fresh", 0.0)
    assert (unknown.value, unknown.state) == (None, "absent")
    assert shop.owner.calls == [["a"]]


async def test_hybrid_no_longer_asks_for_a_key_that_was_removed() -> None:
    shop = await borrower("hybrid")
    await shop.keep("a", b"true")
    await shop.keep("a", None)
    await shop.reads._age.watch("hybrid")
    assert (await shop.get("a")).state == "absent"
    assert shop.owner.calls == []


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_hybrid_gives_the_last_known_value_when_the_owner_fails(failure: Any) -> None:
    shop = await borrower("hybrid")
    await shop.keep("a", b"true")
    shop.owner.put("a", 5)
    await shop.get("a")
    shop.owner.behaviour = failure
    found = await shop.get("a")
    assert (found.value, found.state) == (Card("a", 5), "stale")


@pytest.mark.parametrize("mode", MODES)
async def test_hundreds_of_reads_of_a_hanging_owner_stay_in_the_budget(mode: Mode) -> None:
    shop = await borrower(mode)
    if mode != "sync":
        await shop.keep("k7", b"true" if mode == "hybrid" else msgspec.json.encode(Card("k7", 1)))
    shop.owner.behaviour = "hangs"
    started = now()
    for _ in range(3):
        await asyncio.gather(*(shop.reads.get(f"k{n}") for n in range(300)))
    assert now() - started < 3 * (BUDGET + SLACK)


async def test_every_read_is_counted_by_its_mode_and_state() -> None:
    shop = await borrower("sync")
    shop.owner.put("a")
    await shop.get("a")
    await shop.get("b")
    text = shop.context.metrics.exposition().decode()
    for state in ("fresh", "absent"):
        assert f'chimera_borrowed_total{{mode="sync",service="shop",share="cards",state="{state}"}} 1.0' in text


# what a reader has seen


async def test_a_value_that_was_shown_ahead_of_the_copy_is_not_taken_back_by_the_copy() -> None:
    shop = await borrower("async", max_age=0.02)
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    shop.owner.put("a", 6)
    shop.owner.positions["a"] = Position("accounts", 0, 2)
    await asyncio.sleep(0.03)
    assert (await shop.get("a")).value == Card("a", 6)
    shop.owner.behaviour = Unavailable("down")
    shop.reads._age.begin("async", now(), {})
    found = await shop.get("a")
    assert (found.value, found.state) == (Card("a", 6), "stale")
    await shop.keep("a", msgspec.json.encode(Card("a", 7)))
    shop.reads._age.begin("async", now(), {})
    assert (await shop.get("a")).value == Card("a", 7)
    assert not shop.reads._ahead


async def test_an_absence_that_was_shown_ahead_of_the_copy_is_not_taken_back_either() -> None:
    shop = await borrower("async", max_age=0.02)
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    shop.owner.positions["a"] = Position("accounts", 0, 2)
    await asyncio.sleep(0.03)
    assert (await shop.get("a")).state == "absent"
    shop.reads._age.begin("async", now(), {})
    assert (await shop.get("a")).state == "absent"


async def test_keys_that_were_shown_ahead_of_the_copy_are_bounded() -> None:
    shop = await borrower("async", limits=Limits(ahead_keys=3))
    for number in range(5):
        shop.owner.positions[f"k{number}"] = Position("accounts", 0, 9)
        await shop.get(f"k{number}")
    assert list(shop.reads._ahead) == ["k2", "k3", "k4"]


@pytest.mark.parametrize("mode", MODES)
async def test_who_is_shown_the_owners_value_is_given_the_position_that_it_is_of(mode: Mode) -> None:
    shop = await borrower(mode)
    if mode != "sync":
        await shop.keep("a", b"true" if mode == "hybrid" else msgspec.json.encode(Card("a", 5)))
    shop.owner.put("a", 6)
    shop.owner.positions["a"] = Position("accounts", 0, 8)
    notes = Notes([Position("accounts", 0, 7)])
    assert (await shop.reads.get("a", notes)).state == "fresh"
    assert (notes.seen, notes.behind) == ([Position("accounts", 0, 8)], [])


async def test_who_follows_is_given_where_the_copy_is_that_she_is_shown() -> None:
    shop = await borrower("async")
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    await shop.reads._age.watch("async")
    notes = Notes([Position("accounts", 0, 0)])
    assert (await shop.reads.get("a", notes)).state == "fresh"
    assert notes.seen == [Position("accounts", 0, 1)]
    alone = Notes()
    await shop.reads.get("a", alone)
    assert alone.seen == []


async def test_an_owner_that_has_not_what_its_reader_has_seen_is_not_called_fresh() -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 6)
    shop.owner.positions["a"] = Position("accounts", 0, 3)
    notes = Notes([Position("accounts", 0, 7)])
    assert (await shop.reads.get("a", notes)).state == "stale"
    assert notes.behind == [Position("accounts", 0, 3)]


@pytest.mark.parametrize(("seen", "behind"), [(8, []), (9, [Position("accounts", 0, 8)])])
async def test_a_last_known_value_knows_what_it_has(seen: int, behind: list[Position]) -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 6)
    shop.owner.positions["a"] = Position("accounts", 0, 8)
    await shop.get("a")
    shop.owner.behaviour = Unavailable("down")
    notes = Notes([Position("accounts", 0, seen)])
    found = await shop.reads.get("a", notes)
    assert (found.value, found.state) == (Card("a", 6), "stale")
    assert notes.behind == behind
    assert notes.seen == [Position("accounts", 0, seen)]


async def test_the_newer_one_of_the_copy_and_the_last_known_value_is_shown() -> None:
    shop = await borrower("async", max_age=0.0)
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    shop.owner.put("a", 6)
    shop.owner.positions["a"] = Position("accounts", 0, 2)
    await shop.get("a")
    shop.owner.behaviour = Unavailable("down")
    shop.reads._ahead.clear()  # as in another read head
    assert (await shop.get("a")).value == Card("a", 6)
    await shop.keep("a", msgspec.json.encode(Card("a", 7)))
    assert (await shop.get("a")).value == Card("a", 7)


async def test_what_an_earlier_release_remembered_is_still_known() -> None:
    shop = await borrower("sync")
    shop.owner.put("a", 5)
    await shop.get("a")
    [name] = shop.remembered._values
    await shop.remembered.put_many({name: b'{"account_id":"a","balance":4}'})
    shop.owner.behaviour = Unavailable("down")
    notes = Notes([Position("accounts", 0, 1)])
    assert (await shop.reads.get("a", notes)).value == Card("a", 4)
    assert notes.behind == [Position("accounts", 0, 0)]


async def test_a_copy_that_was_lost_does_not_make_its_keys_absent() -> None:
    shop = await borrower("async")
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    await shop.reads._age.watch("async")
    name = copy_name("cards", "async")
    await shop.context.views.drop(name, [name])
    shop.owner.behaviour = Unavailable("down")
    assert await shop.get("a") == Borrowed(None, "absent", None)
    await shop.reads._age.watch("async")
    assert shop.reads._age.seconds("async", "a") is None


async def test_a_copy_that_was_lost_after_it_reached_a_floor_does_not_make_its_keys_absent() -> None:
    """It was compared before its owner had anything, and read since because it had what the owner had by then."""
    shop = await borrower("async")
    await shop.reads._age.watch("async")
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    shop.reads._age.begin("async", now(), {0: 1})
    assert (await shop.get("a")).state == "fresh"
    name = copy_name("cards", "async")
    await shop.context.views.drop(name, [name])
    shop.owner.behaviour = Unavailable("down")
    assert await shop.get("a") == Borrowed(None, "absent", None)


async def test_a_floor_that_was_reached_makes_only_its_own_partition_newer() -> None:
    shop = await borrower("async")
    age, at = shop.reads._age, now()
    first, other = (next(k for k in "abcdefgh" if partition_of(k, 2) == partition) for partition in range(2))
    age.reached("async", CopyFloor(Position("accounts", 0, 1), at, 2))
    assert age.seconds("async", other) is None
    assert (age.seconds("async", first) or 0.0) >= 0.0
    age.begin("async", at - 5, {0: 1, 1: 1})
    assert (age.seconds("async", other) or 0.0) >= 5 > (age.seconds("async", first) or 0.0)


async def test_a_copy_that_may_be_dropped_says_no_age_of_an_absence() -> None:
    shop = await borrower("async", timing=msgspec.structs.replace(QUICK, switch_grace_s=-1.0))
    shop.reads._age.begin("async", now(), {})
    shop.owner.behaviour = Unavailable("down")
    assert await shop.get("a") == Borrowed(None, "absent", None)


async def test_an_absence_that_is_remembered_is_as_old_as_it_is() -> None:
    shop = await borrower("sync", timing=msgspec.structs.replace(QUICK, absent_s=5.0))
    assert await shop.get("a") == Borrowed(None, "absent", 0.0)
    await asyncio.sleep(0.01)
    found = await shop.get("a")
    assert found.age is not None
    assert found.age >= 0.01


async def test_of_two_calls_at_once_only_the_later_one_is_remembered() -> None:
    shop = await borrower("sync", budget=0.5, timing=msgspec.structs.replace(QUICK, absent_s=5.0))
    slow, fetch = asyncio.Event(), shop.owner.fetch

    async def late(share: str, keys: Sequence[str]) -> Fetched:
        found = await fetch(share, keys)
        if len(shop.owner.calls) == 1:
            await slow.wait()
        return found

    shop.owner.fetch = late  # type: ignore[method-assign]
    first = asyncio.ensure_future(shop.reads.get("a"))
    await eventually(lambda: shop.owner.calls)
    shop.owner.put("a", 5)
    assert (await shop.reads.get("a", Notes([Position("accounts", 0, 1)]))).value == Card("a", 5)
    slow.set()
    assert (await first).state == "absent"
    assert (await shop.reads.get("a")).value == Card("a", 5)


async def test_many_keys_of_a_page_are_one_look_at_where_the_copy_is() -> None:
    shop = await borrower("async", budget=0.2)
    for number in range(20):
        await shop.keep(f"k{number}", msgspec.json.encode(Card(f"k{number}", 1)))
    await shop.reads._age.watch("async")
    looks = list[str]()
    checkpoints = shop.context.views.checkpoints

    async def counted(consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        looks.append(consumer)
        return await checkpoints(consumer)

    shop.context.views.checkpoints = counted  # type: ignore[method-assign]
    await shop.reads.get_many([f"k{number}" for number in range(20)], Notes([Position("accounts", 0, 20)]))
    assert len(looks) <= 3


async def test_a_copy_that_has_set_a_keys_events_aside_is_not_fresh_and_says_so_while_its_owner_is_down() -> None:
    shop = await borrower("async")
    await shop.keep("a", msgspec.json.encode(Card("a", 5)))
    await shop.keep("b", msgspec.json.encode(Card("b", 5)))
    await shop.reads._age.watch("async")
    projector = Projector(shop.context, copy_projection(shop.borrow, "async"))
    garbage = change_data("a", b'{"balance":"much"}')
    change = Message("x", "accounts", share_type("accounts", "cards"), "a", "", garbage, 0, 3)
    assert await projector.apply(Batch([change], [Move("accounts", 0, 2, Checkpoint(3))]))
    shop.owner.put("a", 6)
    assert await shop.get("a") == Borrowed(Card("a", 6), "fresh", 0.0)
    assert (await shop.get("b")).state == "fresh"
    assert shop.owner.calls == [["a"]]
    await shop.remembered.put_many(dict.fromkeys(shop.remembered._values))
    shop.owner.behaviour = Unavailable("down")
    notes = Notes([Position("accounts", 0, 3)])
    found = await shop.reads.get("a", notes)
    assert (found.value, found.state) == (Card("a", 5), "stale")
    assert notes.lacking == [Position("accounts", 0, 3)]
    assert notes.behind == [Position("accounts", 0, 2)]
