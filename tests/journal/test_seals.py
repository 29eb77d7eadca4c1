"""What the fleet's keys seal: nobody else writes the next event of a service, or a command of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from chimera.commands.accept import Intake
from chimera.commands.consume import NOT_SEALED, CommandConsumer
from chimera.core.context import Context
from chimera.core.keys.seals import Seal, Seals
from chimera.core.metrics import Metrics
from chimera.journal.feed import HASHED
from chimera.messages import Message, chain_of
from chimera.ports import Checkpoint
from chimera.testing.memory import MemoryStore
from chimera.testing.waiting import eventually, running
from chimera.upkeep.recovery.proof import prove
from tests.journal.test_history import Owner, feeding, log_of, taken
from tests.support import Account as Row
from tests.support import Bank, Deposit, Engines, message_of, opened, parked_of, rows

KEYS = ("a" * 32, "b" * 32)
THEIRS = ("c" * 32,)
SOURCE = "contract"

texts = st.text(max_size=12)
events = st.builds(
    Message,
    st.just(""),
    st.just(SOURCE),
    texts,
    texts,
    texts,
    st.binary(max_size=20),
    metadata=texts,
)


def sealed(message: Message, before: str, seal: Seal) -> Message:
    chain = seal.after(before, message.type, message.key, message.time, message.data, message.metadata)
    return msgspec.structs.replace(message, chain=chain)


CHANGES: Sequence[Callable[[Message], Message]] = (
    lambda m: msgspec.structs.replace(m, type=m.type + "x"),
    lambda m: msgspec.structs.replace(m, key=m.key + "x"),
    lambda m: msgspec.structs.replace(m, time=m.time + "x"),
    lambda m: msgspec.structs.replace(m, data=m.data + b"x"),
    lambda m: msgspec.structs.replace(m, metadata=m.metadata + "x"),
    lambda m: msgspec.structs.replace(m, chain=m.chain[:-1] + ("0" if m.chain[-1] != "0" else "1")),
    lambda m: msgspec.structs.replace(m, chain=m.chain.partition(".")[2]),
)


@given(message=events, before=texts, change=st.sampled_from(CHANGES))
def test_an_event_follows_as_its_owner_wrote_it_and_not_when_anything_of_it_is_another(
    message: Message, before: str, change: Callable[[Message], Message]
) -> None:
    seal = Seal(SOURCE, KEYS)
    own = sealed(message, before, seal)
    assert seal.follows(own, before)
    assert seal.may_follow(own, before)
    assert not seal.follows(own, before + "x")
    assert not seal.follows(change(own), before)


@given(message=events, before=texts)
def test_only_the_keys_of_the_fleet_and_only_for_its_own_service(message: Message, before: str) -> None:
    seal = Seal(SOURCE, KEYS)
    rotated = Seal(SOURCE, (KEYS[1], KEYS[0]))
    assert rotated.follows(sealed(message, before, seal), before)
    assert not seal.follows(sealed(message, before, Seal(SOURCE, THEIRS)), before)
    assert not seal.follows(sealed(message, before, Seal("another", KEYS)), before)
    assert not seal.follows(sealed(message, before, Seal(SOURCE)), before)
    assert not Seal(SOURCE).follows(sealed(message, before, seal), before)


@given(message=events, before=texts)
def test_of_its_own_journal_nobody_says_that_it_went_back_for_a_key_that_is_gone(message: Message, before: str) -> None:
    seal = Seal(SOURCE, KEYS)
    assert seal.may_follow(sealed(message, before, Seal(SOURCE, THEIRS)), before)
    assert seal.may_follow(sealed(message, before, Seal(SOURCE)), before)
    assert not seal.may_follow(msgspec.structs.replace(message, chain="0" * 32), before)


@given(message=events, change=st.sampled_from(CHANGES[:6]))
def test_a_command_is_sealed_as_a_whole(message: Message, change: Callable[[Message], Message]) -> None:
    seal = Seal(SOURCE, KEYS)
    own = msgspec.structs.replace(message, chain=seal.of_command(message))
    assert seal.is_on(own)
    assert not seal.is_on(change(own))
    assert not seal.is_on(message)
    assert not seal.is_on(msgspec.structs.replace(own, id="another"))
    assert not seal.is_on(msgspec.structs.replace(message, chain=Seal("another", KEYS).of_command(message)))
    assert Seal(SOURCE).is_on(message)
    lenient = Seal(SOURCE, KEYS, takes_unsealed=True)
    assert lenient.is_on(message)
    assert not lenient.is_on(msgspec.structs.replace(message, chain=Seal(SOURCE, THEIRS).of_command(message)))


# Strangers at the log


class SealedOwner(Owner):
    """An owner whose journal is sealed."""

    seal = Seal(SOURCE, KEYS)

    async def emit(self, *keys: str) -> Sequence[Message]:
        async with self.store.transaction() as session:
            tip = (await session.hold([0]))[0]
            made, before = list[Message](), tip.chain
            for number, key in enumerate(keys, tip.number + 1):
                made.append(sealed(_event(number, key), before, self.seal))
                before = made[-1].chain
            await session.append(made)
        return made


def _event(number: int, key: str) -> Message:
    return Message(f"{SOURCE}/0@{number}", SOURCE, "contract.Done", key, "2026-01-02T03:04:05Z", b"{}", 0, number)


async def owner_with(*keys: str) -> tuple[SealedOwner, Sequence[Message]]:
    store = MemoryStore()
    await store.create([], 1)
    owner = SealedOwner(store)
    return owner, await owner.emit(*keys)


def forged(after: Message | None, key: str, seal: Seal | None) -> Message:
    """The event that a stranger writes behind one that was read, who knows everything but the keys."""
    number, before = (after.number + 1, after.chain) if after else (1, "0" * 32)
    event = _event(number, key)
    if seal is not None:
        return sealed(event, before, seal)
    return msgspec.structs.replace(event, chain=chain_of(before, event.type, event.key, event.time, event.data))


STRANGERS = {
    "an unsealed chain": None,
    "keys of their own": Seal(SOURCE, THEIRS),
    "another service's": Seal("another", KEYS),
}


@pytest.mark.parametrize("how", STRANGERS)
@pytest.mark.parametrize("behind", [0, 1, 2, 3])
async def test_a_stranger_at_the_broker_adds_no_event(how: str, behind: int) -> None:
    owner, own = await owner_with("a", "b", "c")
    forgery = forged(own[behind - 1] if behind else None, "forged", STRANGERS[how])
    log = await log_of(*own[:behind], forgery, *own[behind:])
    metrics = Metrics()
    async with feeding(log, owner, Checkpoint(), metrics, seals=Seals(KEYS)) as feed:
        keys = list[str]()
        async with asyncio.timeout(60):
            while len(keys) < 3:
                keys += [message.key for message in (await feed.next()).messages]
        keys += await taken(feed, 5)
        assert not feed.is_diverged
    assert keys == ["a", "b", "c"]


@pytest.mark.parametrize("how", STRANGERS)
@pytest.mark.parametrize("behind", [0, 1, 40, HASHED + 20, 2 * HASHED])
@pytest.mark.parametrize("instead", [True, False])
async def test_nor_among_many_that_are_read_at_once(how: str, behind: int, instead: bool) -> None:
    keys = [f"k{number}" for number in range(2 * HASHED)]
    owner, own = await owner_with(*keys)
    forgery = forged(own[behind - 1] if behind else None, "forged", STRANGERS[how])
    log = await log_of(*own[:behind], forgery, *own[behind + instead :])
    async with feeding(log, owner, Checkpoint(), seals=Seals(KEYS)) as feed:
        found = list[str]()
        async with asyncio.timeout(10):
            while len(found) < len(keys):
                found += [message.key for message in (await feed.next()).messages]
        found += await taken(feed, 5)
        assert not feed.is_diverged
    assert found == keys


@given(st.lists(events, max_size=5), texts, st.sampled_from(CHANGES), st.data())
def test_many_events_follow_each_other_when_each_follows_the_one_before(
    messages: list[Message], before: str, change: Callable[[Message], Message], data: st.DataObject
) -> None:
    seal = Seal(SOURCE, KEYS)
    own = list[Message]()
    for message in messages:
        own.append(sealed(message, own[-1].chain if own else before, seal))
    assert seal.all_follow(own)
    if own:
        at = data.draw(st.integers(0, len(own) - 1))
        own[at] = change(own[at])
    assert seal.all_follow(own) == all(seal.follows(after, first.chain) for first, after in pairwise(own))


@pytest.mark.parametrize("how", STRANGERS)
async def test_nor_many_at_once(how: str) -> None:
    owner, own = await owner_with("a")
    made = [forged(own[0], "forged", STRANGERS[how])]
    for _ in range(2 * HASHED):
        made.append(forged(made[-1], "forged", STRANGERS[how]))
    async with feeding(await log_of(*made), owner, Checkpoint(), seals=Seals(KEYS)) as feed:
        assert await taken(feed, 10) == ["a"]
        await owner.emit("b")
        assert await taken(feed, 10) == ["b"]


@pytest.mark.parametrize("how", STRANGERS)
async def test_a_forged_event_does_not_take_the_place_of_the_one_that_comes(how: str) -> None:
    owner, own = await owner_with("a", "b")
    log = await log_of(*own, forged(own[-1], "forged", STRANGERS[how]))
    async with feeding(log, owner, Checkpoint(), seals=Seals(KEYS)) as feed:
        assert await taken(feed, 10) == ["a", "b"]
        later = await owner.emit("c", "d")
        await log.append(f"{SOURCE}.events", later)
        assert await taken(feed, 10) == ["c", "d"]


async def test_who_asked_for_an_event_can_not_be_changed_on_its_way() -> None:
    owner, own = await owner_with("a", "b")
    log = await log_of(own[0], msgspec.structs.replace(own[1], metadata='{"caller":{"subject":"admin"}}'))
    async with feeding(log, owner, Checkpoint(), seals=Seals(KEYS)) as feed:
        found = list[Message]()
        async with asyncio.timeout(60):
            while len(found) < 2:
                found += (await feed.next()).messages
    assert [message.metadata for message in found] == ["", ""]


async def test_a_history_from_before_there_were_keys_is_taken_from_its_owner() -> None:
    owner, _ = await owner_with()
    owner.seal = Seal(SOURCE)
    old = await owner.emit("a", "b", "c")
    owner.seal = Seal(SOURCE, KEYS[:1])
    new = await owner.emit("d", "e")
    async with feeding(await log_of(*old, *new), owner, Checkpoint(), seals=Seals(KEYS)) as feed:
        assert await taken(feed, 10) == ["a", "b", "c", "d", "e"]


async def test_a_key_is_changed_while_events_are_read() -> None:
    owner, old = await owner_with("a")
    owner.seal = Seal(SOURCE, (*THEIRS, *KEYS))
    new = await owner.emit("b", "c")
    async with feeding(await log_of(*old, *new), owner, Checkpoint(), seals=Seals((*THEIRS, *KEYS))) as feed:
        assert await taken(feed, 10) == ["a", "b", "c"]


async def test_a_row_that_was_changed_in_the_database_shows_in_the_proof() -> None:
    owner, _ = await owner_with("a", "b", "c")
    assert (await prove(owner.store, 0, owner.seal)).broken == 0
    without = await prove(owner.store, 0, Seal(SOURCE, THEIRS))
    assert (without.broken, without.unchained) == (0, 3)
    first, second, third = owner.store.state.events[0]
    changed = (first, msgspec.structs.replace(second, data=b'{"more": 1}'), third)
    owner.store.state = msgspec.structs.replace(owner.store.state, events={0: changed})
    assert (await prove(owner.store, 0, owner.seal)).broken == 2


# Strangers who send commands


@pytest.fixture
async def guarded(bank: Bank, engines: Engines) -> Context:
    return await opened(bank.service, engines, seals=Seals(KEYS))


async def test_a_command_that_no_service_has_taken_in_is_refused_and_keeps_nobody_waiting(guarded: Context) -> None:
    topic, own = guarded.commands_topic, guarded.seals.of(guarded.service.name)
    alien, other = message_of(Deposit("k1", 1000)), message_of(Deposit("k1", 100))
    copied = msgspec.structs.replace(other, chain=own.of_command(alien))
    await guarded.log.append(topic, [alien, copied])
    intake = Intake(guarded)
    await intake.append(message_of(Deposit("k1", 7)))
    async with running(CommandConsumer(guarded).run(frozenset(range(guarded.service.partitions)))):
        await eventually(lambda: _balance_is(guarded, 7))
        await eventually(lambda: _parked(guarded, 2))
    for each in await parked_of(guarded):
        assert NOT_SEALED in each.cause
        assert each.key.startswith(f"{topic}/")
    assert (await rows(guarded.store, Row))["k1"].balance == 7


async def test_without_keys_commands_of_others_are_taken(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines)
    await context.log.append(context.commands_topic, [message_of(Deposit("k1", 3))])
    async with running(CommandConsumer(context).run(frozenset(range(context.service.partitions)))):
        await eventually(lambda: _balance_is(context, 3))
    assert replace(context, seals=Seals(KEYS)).seals.of("accounts").is_keyed


async def _balance_is(context: Context, balance: int) -> bool:
    row = (await rows(context.store, Row)).get("k1")
    return row is not None and row.balance == balance


async def _parked(context: Context, count: int) -> bool:
    return len(await parked_of(context)) == count
