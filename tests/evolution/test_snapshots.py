"""Snapshots of event-sourced entities: what a load gives is what a replay gives, whatever code took the snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera import DELETED, DeclarationError, Event, Service
from chimera.core.context import Context
from chimera.entities import Snapshot
from chimera.errors import Unreadable
from chimera.messages import Message, partition_of
from chimera.reads import LARGEST_SNAPSHOT, Reads
from chimera.testing import running
from chimera.transaction import Transaction, Unit
from tests.evolution.shop import Written, append
from tests.support import TIME, Engines, all_of, opened

EVERY = 3


class Added(Event, source="strokes", key="name"):
    name: str
    count: int


class Ended(Event, source="strokes", key="name"):
    name: str


class Tally(msgspec.Struct):
    name: str
    counts: list[int] = []
    by_size: dict[int, set[str]] = {}


class Odd(msgspec.Struct):
    """What its JSON does not tell all of."""

    name: str
    value: Any = None


def tally_of(*, every: int = EVERY, factor: int = 1, version: str = "") -> Service:
    service = Service("strokes", partitions=2)
    fold = service.event_sourced(Tally, key="name", snapshot=every, version=version)
    odd = service.event_sourced(Odd, key="name", snapshot=every)

    @fold.on(Added)
    def added(tally: Tally, event: Added) -> None:
        tally.counts.append(event.count * factor)
        tally.by_size.setdefault(event.count % 3, set()).add(str(event.count))

    @fold.on(Ended)
    def ended(tally: Tally, event: Ended) -> object:
        return DELETED

    @odd.on(Added)
    def valued(odd: Odd, event: Added) -> None:
        odd.value = (event.count,)

    return service


async def emit(context: Context, *events: Event, fails: bool = False) -> Tally | None:
    """What a command does that loads, emits, and loads again; the entity as it was then."""
    key = events[0].key
    async with context.store.transaction() as session:
        unit = Unit(context.service, session)
        tx = Transaction(unit, Message("c", "strokes", "", key, TIME, b"", 0), key)
        await tx.load(Tally, key)
        for event in events:
            tx.emit(event)
        found = await tx.load(Tally, key)
        if not fails:
            tx.merge()
        await unit.flush()
        await unit.number()
    return found


async def load(context: Context, key: str, entity: type = Tally) -> Any:
    async with context.store.snapshot() as session:
        return await Reads(context.service, session).load(entity, key)


async def replayed(context: Context, key: str) -> Tally | None:
    """The entity folded from all of its events, by the same functions and nothing that a load uses."""
    found: Any = None
    steps = context.service.folds[Tally].steps
    classes = {"strokes.Added": Added, "strokes.Ended": Ended}
    async with context.store.snapshot() as session:
        for message in await session.history(partition_of(key, 2), key):
            event = msgspec.json.decode(message.data, type=classes[message.type])
            found = Tally(key) if found is None else found
            found = None if steps[type(event)][1](found, event) is DELETED else found
    return None if found is None else msgspec.convert(msgspec.to_builtins(found), Tally, strict=False)


async def snapshots(context: Context) -> list[Snapshot]:
    return await all_of(context.store, Snapshot)


EVENTS = st.lists(
    st.lists(
        st.builds(Added, st.sampled_from("ab"), st.integers(0, 99)) | st.builds(Ended, st.sampled_from("ab")),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(EVENTS, st.booleans())
def test_a_load_gives_what_a_replay_gives(commands: Sequence[Sequence[Event]], changes: bool) -> None:
    asyncio.run(_loads(commands, changes=changes))


async def _loads(commands: Sequence[Sequence[Event]], *, changes: bool) -> None:
    async with running(tally_of()) as services:
        context = services.contexts["strokes"]
        for number, events in enumerate(commands):
            if changes and number % 3 == 2:
                context.service.folds.update(tally_of(factor=number).folds)
            mine = [event for event in events if event.key == events[0].key]
            during = await emit(context, *mine)
            assert during == await load(context, events[0].key) == await replayed(context, events[0].key)
        assert len(await snapshots(context)) <= 4


async def started(engines: Engines, service: Service) -> Context:
    return await opened(service, engines)


async def test_a_snapshot_is_used_by_the_code_that_took_it_and_by_no_other(engines: Engines) -> None:
    context = await started(engines, tally_of())
    for count in range(EVERY):
        await emit(context, Added("a", count))
    assert await snapshots(context) == []
    await emit(context, Added("a", 7))
    [kept] = [each for each in await snapshots(context) if each.entity == "Tally"]
    assert msgspec.json.decode(kept.data)["counts"] == [0, 1, 2]
    lie = msgspec.structs.replace(kept, data=b'{"name":"a","counts":[1000]}')
    async with context.store.transaction() as session:
        unit = Unit(context.service, session)
        unit.put(lie)
        await unit.flush()
    assert (await load(context, "a")).counts == [1000, 7]
    for other in (tally_of(factor=2), tally_of(version="2")):
        changed = await started(engines, other)
        assert await load(changed, "a") == await replayed(changed, "a")
    await emit(changed, Added("a", 8))
    assert await load(context, "a") == await replayed(context, "a")


async def test_what_a_refused_command_emitted_is_in_no_snapshot(engines: Engines) -> None:
    context = await started(engines, tally_of())
    await emit(context, *(Added("a", count) for count in range(EVERY)))
    await emit(context, Added("a", 99), fails=True)
    assert len(await snapshots(context)) == 1
    assert (await load(context, "a")).counts == [0, 1, 2]


async def test_what_its_json_does_not_tell_or_what_is_too_large_is_folded_each_time(engines: Engines) -> None:
    context = await started(engines, tally_of())
    await emit(context, *(Added("a", count) for count in range(EVERY)))
    async with context.store.transaction() as session:
        unit = Unit(context.service, session)
        tx = Transaction(unit, Message("c", "strokes", "", "a", TIME, b"", 0), "a")
        assert (await tx.load(Odd, "a")) == Odd("a", (2,))
        await unit.flush()
    assert not [each for each in await snapshots(context) if each.entity == "Odd"]
    long = "n" * 200

    class Wide(msgspec.Struct):
        name: str
        text: str = ""

    fold = context.service.event_sourced(Wide, key="name", snapshot=1)
    fold.on(Added)(lambda wide, event: setattr(wide, "text", long * (LARGEST_SNAPSHOT // 200 + 1)))
    async with context.store.transaction() as session:
        unit = Unit(context.service, session)
        tx = Transaction(unit, Message("c", "strokes", "", "a", TIME, b"", 0), "a")
        assert len((await tx.load(Wide, "a")).text) > LARGEST_SNAPSHOT // 2  # type: ignore[union-attr]
        await unit.flush()
    assert not [each for each in await snapshots(context) if each.entity == "Wide"]


async def test_a_newer_version_behind_a_snapshot_is_not_guessed(engines: Engines) -> None:
    context = await started(engines, tally_of())
    await emit(context, *(Added("a", count) for count in range(EVERY)))
    await emit(context, Added("a", 3))
    await append(context, "strokes", "Added", [Written(2, {"order_id": "a", "name": "a", "count": 5})])
    with pytest.raises(Unreadable, match="up to version 1"):
        await load(context, "a")


def test_a_snapshot_after_no_number_of_events_is_refused_with_its_place() -> None:
    with pytest.raises(DeclarationError, match=r"tests/evolution/test_snapshots\.py:\d+: snapshot=-1 is no number"):
        Service("strokes").event_sourced(Tally, key="name", snapshot=-1)
