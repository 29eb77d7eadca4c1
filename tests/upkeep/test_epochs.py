"""Where a log and a journal part is found, told, and kept from whoever reads the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from chimera import Service
from chimera.core.context import Context
from chimera.core.keys.seals import Seal
from chimera.core.timing import Timing
from chimera.errors import ChimeraError
from chimera.journal.feed import Feed
from chimera.journal.history import Epochs
from chimera.journal.relay import Relay
from chimera.messages import Message, chained
from chimera.ports import Checkpoint, Epoch, Log, Store
from chimera.testing.contracts.suite import event
from chimera.testing.waiting import eventually, running
from chimera.upkeep.recovery import forks
from chimera.upkeep.recovery.epochs import keep_epochs
from chimera.upkeep.recovery.forks import Fork, JournalChains, find_fork, led_to
from tests.support import Engines, opened

TIMING = Timing(heads_s=0.001, heads_kept_s=0.0, refetch_s=0.001, heads_quiet_s=0.001)

SEAL = Seal("contract")


@pytest.fixture
async def contract(engines: Engines) -> Context:
    return await opened(Service("contract", partitions=1), engines, timing=TIMING)


async def emit(context: Context, *keys: str) -> Sequence[Message]:
    """Events that are in the journal and in the log."""
    return await sent(context.log, await stored(context.store, *keys))


async def stored(store: Store, *keys: str) -> Sequence[Message]:
    async with store.transaction() as session:
        tip = (await session.hold([0]))[0]
        events = chained(tip.chain, [event(0, n, key) for n, key in enumerate(keys, tip.number + 1)])
        await session.append(events)
    return events


async def sent(log: Log, events: Sequence[Message]) -> Sequence[Message]:
    await log.append("contract.events", events)
    return events


async def send_lost(context: Context, *keys: str) -> Sequence[Message]:
    """Events that the log has, and the journal would have if it had not been put back."""
    head = (await context.store.heads())[0]
    chain = (await context.store.chain({0: head}))[0]
    return await sent(context.log, chained(chain, [event(0, n, key) for n, key in enumerate(keys, head + 1)]))


async def found_in(context: Context, began: Sequence[Epoch] = (), *, whole: bool = False) -> Fork | None:
    return await find_fork(context, 0, Epochs(began), whole=whole)


async def test_a_log_without_anything_else_does_not_part(contract: Context) -> None:
    assert await found_in(contract) is None
    await emit(contract, "a", "b")
    assert await found_in(contract) is None
    assert await found_in(contract, whole=True) is None
    await sent(contract.log, [Message("x", "somebody", "x.y", "k", "t", b"{}", 0, 2, "", "0" * 32)])
    assert await found_in(contract, whole=True) is None


@pytest.mark.parametrize("anew", [0, 1, 3, 40])
async def test_what_was_lost_is_found_however_far_the_journal_is(contract: Context, anew: int) -> None:
    await emit(contract, "a", "b")
    lost = await send_lost(contract, "c", "d", "e")
    await emit(contract, *(f"new{n}" for n in range(anew)))
    found = await found_in(contract, whole=anew > 0)
    assert found is not None
    assert ([each.key for each in found.lost], found.common, found.end) == (["c", "d", "e"], 2, 5 + anew)
    assert found.chain == (await contract.store.chain({0: 2}))[0]
    journal = JournalChains(contract.store, 0, 2 + anew)
    assert await led_to(found, 4, lost[1].chain, journal, SEAL) == list(lost[:2])
    assert await led_to(found, 4, "another", journal, SEAL) is None


async def test_of_two_histories_that_were_lost_each_is_told_from_the_other(contract: Context) -> None:
    await emit(contract, "a")
    first = await send_lost(contract, "b1", "c1")
    await emit(contract, "x")
    second = await send_lost(contract, "c2", "d2")
    found = await found_in(contract, whole=True)
    assert found is not None
    journal = JournalChains(contract.store, 0, 2)
    assert await led_to(found, 3, first[1].chain, journal, SEAL) == list(first)
    assert await led_to(found, 4, second[1].chain, journal, SEAL) == list(second)
    told = Epoch(0, found.common, found.chain, found.end)
    again = await found_in(contract, [told], whole=True)
    assert again is not None
    assert not again.is_new


async def test_a_topic_of_others_is_refused_instead_of_held(contract: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "MOST_LOST", 10)
    await send_lost(contract, *(f"k{n}" for n in range(11)))
    with pytest.raises(ChimeraError, match="is it the topic of another installation"):
        await found_in(contract, whole=True)


async def test_what_was_lost_is_told_once_and_read_by_nobody(
    contract: Context, caplog: pytest.LogCaptureFixture
) -> None:
    await emit(contract, "a", "b")
    await send_lost(contract, "c", "d")
    contract.sent.doubt()
    feed = Feed(contract, "contract", {0: Checkpoint()}, "totals")
    keys: list[str] = []

    async def read() -> None:
        while True:
            keys.extend(message.key for message in (await feed.next()).messages)

    async with running(read()):
        await asyncio.sleep(0)
        assert keys == [], "before the log was looked at, nothing of it is taken"
        async with running(keep_epochs(contract)):
            await eventually(lambda: keys == ["a", "b"])
            await emit(contract, "x", "y", "z")
            contract.sent.doubt()
            await eventually(lambda: keys == ["a", "b", "x", "y", "z"])
    await feed.close()
    [epoch] = await contract.owners["contract"].epochs()
    assert (epoch.number, epoch.offset) == (2, 4)
    assert len([each for each in caplog.records if "was put back" in each.getMessage()]) == 1


async def test_nothing_is_sent_before_the_end_of_the_log_was_looked_at(contract: Context) -> None:
    await emit(contract, "a")
    await send_lost(contract, "b")
    contract.sent.doubt()
    await stored(contract.store, "x")
    async with running(Relay(contract).run([0])):
        await eventually(lambda: contract.committed.times == 0)
        assert await contract.log.ends("contract.events") == {0: 2}
        async with running(keep_epochs(contract)):
            await eventually(lambda: _has_epochs(contract))


async def _has_epochs(contract: Context) -> bool:
    return len(await contract.owners["contract"].epochs()) == 1


async def test_a_log_that_was_cut_holds_up_nobody(contract: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "QUIET_S", 0.05)
    await emit(contract, "a", "b")
    await contract.log.trim("contract.events", await contract.log.ends("contract.events"))
    contract.sent.doubt()
    async with running(keep_epochs(contract)):
        await contract.sent.wait()
