"""Two builds side by side, as in a rolling deploy: nothing is parked or refused for good because one can't read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

import msgspec
import pytest

from chimera import Command, Entity, Event, Service, Transaction, Unavailable
from chimera.commands import parking
from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.commands.states import CommandStates
from chimera.core.clock import Clock
from chimera.core.context import Context, Process
from chimera.core.names import PARTITION
from chimera.core.tables import Lease, Parked
from chimera.core.timing import Timing
from chimera.journal.leases import Leases
from chimera.messages import Message, partition_of
from chimera.ports import Session, Store
from chimera.run.builds import build_of, keep_build
from chimera.run.write_head import WriteHead
from chimera.testing.broken import WrappedStore
from chimera.testing.fleets.network import HttpAnswer, served
from chimera.testing.waiting import eventually, running
from chimera.upkeep.parked import Wanted, parked_keys
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from tests.support import Engines, opened, rows

QUICK = Timing(lease_s=1.5, redrive_s=0.02, untold_s=0.05, quiet_s=0.05, keep_s=0.02, restart_first_s=0.001)
PARTITIONS = 4


class Kept(Entity, key="order_id", table="kept"):
    order_id: str
    notes: list[str] = []  # noqa: RUF012 - msgspec copies it


class Sale(msgspec.Struct):
    order_id: str
    notes: list[str] = []


def old_build() -> Service:
    class Place(Command, key="order_id"):
        order_id: str
        note: Literal["plain"] = "plain"

    class Placed(Event, source="stall", key="order_id"):
        order_id: str
        note: Literal["plain"] = "plain"

    return shop_of(Place, Placed)


def new_build() -> Service:
    class Place(Command, key="order_id"):
        order_id: str
        note: Literal["plain", "gift"] = "plain"
        size: int = 0

    class Placed(Event, source="stall", key="order_id"):
        order_id: str
        note: Literal["plain", "gift"] = "plain"

    service = shop_of(Place, Placed)

    class Wrap(Command, key="order_id"):
        order_id: str

    async def wrap(command: Wrap, tx: Transaction) -> None:
        tx.emit(Placed(command.order_id, "gift"))

    wrap.__annotations__["command"] = Wrap
    service.handle("POST /wrappings")(wrap)
    return service


def demanding_build() -> Service:
    """A build that needs what the others do not send."""

    class Place(Command, key="order_id"):
        order_id: str
        channel: str

    class Placed(Event, source="stall", key="order_id"):
        order_id: str
        note: Literal["plain", "gift"] = "plain"

    return shop_of(Place, Placed)


def narrow_build() -> Service:
    """A build with a reaction to one event."""
    return reacting(more=False)


def widened_build() -> Service:
    """A build whose reaction handles one event more."""
    return reacting(more=True)


def reacting(*, more: bool) -> Service:
    class Place(Command, key="order_id"):
        order_id: str
        note: Literal["plain"] = "plain"

    class Placed(Event, source="stall", key="order_id"):
        order_id: str
        note: Literal["plain"] = "plain"

    class Returned(Event, source="stall", key="order_id"):
        order_id: str
        note: Literal["returned"] = "returned"

    class Return(Command, key="order_id"):
        order_id: str

    async def give_back(command: Return, tx: Transaction) -> None:
        tx.emit(Returned(command.order_id))

    async def note(events: list[Event], tx: Transaction) -> None:
        for event in events:
            known = await tx.load(Kept, f"noted {event.key}") or Kept(f"noted {event.key}")
            tx.save(Kept(known.order_id, [*known.notes, event.note]))  # type: ignore[attr-defined]

    service = shop_of(Place, Placed)
    give_back.__annotations__["command"] = Return
    if more:
        service.handle("POST /returns")(give_back)
    service.project(*([Placed, Returned] if more else [Placed]))(note)
    return service


def shop_of(place: type[Command], placed: type[Event]) -> Service:
    service = Service("stall", partitions=PARTITIONS)
    service.entity(Kept)

    async def handle(command: Command, tx: Transaction) -> None:
        tx.emit(placed(command.key, getattr(command, "note", "plain")))

    async def keep(event: Event, tx: Transaction) -> None:
        kept = await tx.load(Kept, event.key) or Kept(event.key)
        tx.save(Kept(event.key, [*kept.notes, event.note]))  # type: ignore[attr-defined]

    def sold(sale: Sale, event: Event) -> None:
        sale.notes.append(event.note)  # type: ignore[attr-defined]

    handle.__annotations__["command"] = place
    keep.__annotations__["event"] = placed
    service.handle("POST /orders")(handle)
    service.on(placed)(keep)
    service.view(Sale, key="order_id", path="/sales/{order_id}").on(placed)(sold)
    return service


class Fleet:
    """Heads of several builds on the same engines."""

    def __init__(self, engines: Engines, clock: Clock) -> None:
        self._engines = engines
        self._clock = clock

    async def head(self, build: Callable[[], Service]) -> Context:
        return await opened(build(), self._engines, timing=QUICK, process=Process(), clock=self._clock)

    @asynccontextmanager
    async def writes(self, build: Callable[[], Service]) -> AsyncIterator[Context]:
        """A write head, once it works."""
        context = await self.head(build)
        head = WriteHead(context, f"{build.__name__}-{context.process.name[:4]}")
        async with running(head.run()):
            await eventually(lambda: bool(head._leases.held), 10)
            yield context

    async def post(self, build: Callable[[], Service], path: str, **body: object) -> HttpAnswer:
        """What a read head of a build answers that has just started."""
        site = Site([ReadHead(await self.head(build))])
        return await served(site, "POST", path, msgspec.json.encode(body), {})


@pytest.fixture
def fleet(engines: Engines) -> Fleet:
    return Fleet(engines, Clock())


async def kept(context: Context, key: str) -> list[str]:
    found: list[Kept] = [row for row in (await rows(context.store, Kept)).values() if row.order_id == key]
    return found[0].notes if found else []


def is_kept(context: Context, key: str, *notes: str) -> Callable[[], Awaitable[bool]]:
    async def found() -> bool:
        return await kept(context, key) == list(notes) and await sold(context, key) == list(notes)

    return found


async def sold(context: Context, key: str) -> list[str]:
    document = (await context.views.get("sale", [key])).get(key)
    return msgspec.json.decode(document.data, type=Sale).notes if document and document.data else []


async def state_of(context: Context, answer: HttpAnswer) -> str:
    return (await CommandStates(context).get(msgspec.json.decode(answer.body)["command_id"])).state


async def nothing_is_parked(context: Context) -> bool:
    return not await parked_keys(context, Wanted())


@pytest.mark.parametrize(
    ("path", "body"), [("/wrappings", {}), ("/orders", {"size": 2}), ("/orders", {"note": "gift"})]
)
async def test_what_no_write_head_can_read_is_taken_once_one_can(
    fleet: Fleet, path: str, body: dict[str, object]
) -> None:
    async with fleet.writes(old_build) as old:
        refused = await fleet.post(new_build, path, order_id="o1", **body)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b"no write head of stall that runs now can read this stall." in refused.body
        assert await old.log.ends("stall.commands") == dict.fromkeys(range(PARTITIONS), 0)
        async with fleet.writes(new_build) as new:
            assert (await fleet.post(new_build, path, order_id="o1", **body)).status == 201
            await eventually(is_kept(new, "o1", "plain" if "size" in body else "gift"), 20)
            await eventually(lambda: nothing_is_parked(new), 10)


async def test_what_every_build_can_read_is_taken_whichever_runs(fleet: Fleet) -> None:
    async with fleet.writes(old_build) as old:
        assert (await fleet.post(new_build, "/orders", order_id="o1")).status == 201
        await eventually(is_kept(old, "o1", "plain"), 10)


async def test_without_a_write_head_commands_are_taken_and_wait_for_one(fleet: Fleet) -> None:
    answer = await fleet.post(new_build, "/wrappings", order_id="o1")
    assert answer.status == 201
    async with fleet.writes(old_build) as old:
        await eventually(lambda: _is(state_of(old, answer), "parked"), 10)  # nobody is there who can read it
        async with fleet.writes(new_build) as new:
            await eventually(is_kept(new, "o1", "gift"), 20)
            assert await state_of(new, answer) == "done"
            await eventually(lambda: nothing_is_parked(new), 10)


async def test_what_an_old_write_head_gets_is_left_to_the_new_one_and_is_never_said_to_be_parked(fleet: Fleet) -> None:
    keys = [f"o{number}" for number in range(12)]
    async with fleet.writes(old_build) as old, fleet.writes(new_build) as new:
        await eventually(lambda: _sizes(new, 2), 10)
        answers = {key: await fleet.post(new_build, "/orders", order_id=key, note="gift", size=1) for key in keys}
        assert {answer.status for answer in answers.values()} == {201}
        seen: set[str] = set()

        async def all_done() -> bool:
            states = {await state_of(old, answer) for answer in answers.values()}
            seen.update(states)
            return states == {"done"}

        await eventually(all_done, 20)
        assert seen <= {"pending", "done"}
        for key in keys:
            await eventually(is_kept(new, key, "gift"), 20)
        await eventually(lambda: nothing_is_parked(new), 10)


async def test_what_is_left_to_a_build_that_has_gone_is_said_to_be_parked(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "LEFT_S", 0.05)
    async with fleet.writes(old_build) as old:
        new = await fleet.head(new_build)
        leases = Leases(new, "new", code=build_of(new.service))
        await keep_build(new)
        await leases.renew()  # it says that it is there, and does nothing
        answer = await fleet.post(new_build, "/orders", order_id="o1", size=1)
        assert answer.status == 201
        await eventually(lambda: _is_left(old), 10)
        assert await state_of(old, answer) == "pending"
        await leases.give_back()
        await eventually(lambda: _is(state_of(old, answer), "parked"), 10)


@pytest.mark.parametrize("beside", [True, False])
async def test_an_event_that_an_old_build_can_not_read_is_folded_and_reacted_to_by_the_new_one(
    fleet: Fleet, beside: bool
) -> None:
    new = await fleet.head(new_build)

    async def emit(key: str) -> None:
        data, time = msgspec.json.encode({"order_id": key}), new.clock.stamp()
        message = Message(f"id-{key}", "stall", "stall.Wrap", key, time, data, partition_of(key, PARTITIONS))
        await direct_executor(new).run([Task(message)])

    async with fleet.writes(old_build) as old:
        await emit("o1")
        await eventually(lambda: _are_parked(old, {"keep:stall", "sale"}), 10)
        assert await kept(old, "o1") == await sold(old, "o1") == []
        if beside:
            async with fleet.writes(new_build):
                await eventually(is_kept(new, "o1", "gift"), 20)
                await emit("o2")
                await eventually(is_kept(new, "o2", "gift"), 20)
                await eventually(lambda: nothing_is_parked(new), 10)
    if not beside:
        async with fleet.writes(new_build):
            await eventually(is_kept(new, "o1", "gift"), 20)
            await eventually(lambda: nothing_is_parked(new), 10)


async def test_an_event_that_only_the_new_build_of_a_reaction_handles_is_not_passed_over_by_the_old_one(
    fleet: Fleet,
) -> None:
    keys = [f"o{n}" for n in range(8)]
    async with fleet.writes(narrow_build), fleet.writes(widened_build) as new:
        for key in keys:
            assert (await fleet.post(widened_build, "/returns", order_id=key)).status == 201
        for key in keys:
            await eventually(partial(has_noted, new, key, ["returned"]))
            assert (await fleet.post(narrow_build, "/orders", order_id=key)).status == 201
            await eventually(partial(has_noted, new, key, ["returned", "plain"]))
        await eventually(lambda: nothing_is_parked(new))


async def has_noted(context: Context, key: str, notes: list[str]) -> bool:
    return await kept(context, f"noted {key}") == notes


async def _are_parked(context: Context, consumers: set[str]) -> bool:
    return {key.first.consumer for key in await parked_keys(context, Wanted())} == consumers


async def test_an_old_read_head_refuses_for_a_moment_what_a_new_write_head_can_read(fleet: Fleet) -> None:
    assert (await fleet.post(old_build, "/orders", order_id="o1", size=2)).status == 422
    async with fleet.writes(old_build):
        assert (await fleet.post(old_build, "/orders", order_id="o1", size=2)).status == 422
        async with fleet.writes(new_build):
            refused = await fleet.post(old_build, "/orders", order_id="o1", size=2)
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert b"this process can't read this stall.Place (" in refused.body
            assert (await fleet.post(old_build, "/orders", order_id="o1", size="two")).status == 422


async def test_what_a_new_write_head_needs_and_an_old_read_head_does_not_send_is_not_taken(fleet: Fleet) -> None:
    async with fleet.writes(demanding_build):
        refused = await fleet.post(old_build, "/orders", order_id="o1")
        assert refused.status == 503
        assert b"$.channel is missing" in refused.body
        assert (await fleet.post(demanding_build, "/orders", order_id="o1", channel="web")).status == 201


async def test_write_heads_of_an_earlier_release_that_do_not_say_what_they_read_are_believed_to(fleet: Fleet) -> None:
    await Leases(await fleet.head(old_build), "silent", code="3f2a").renew()
    assert (await fleet.post(new_build, "/wrappings", order_id="o1")).status == 201


async def test_what_is_announced_is_looked_at_once_a_second_however_many_commands_come(fleet: Fleet) -> None:
    async with fleet.writes(old_build):
        context = await fleet.head(new_build)
        store = Counting(context.store)
        site = Site([ReadHead(replace(context, store=store))])
        for number in range(50):
            body = msgspec.json.encode({"order_id": f"o{number}"})
            assert (await served(site, "POST", "/orders", body, {})).status == 201
        assert store.snapshots <= 4  # the leases, and once what the build reads; once more if it took a second


async def test_a_store_that_is_away_keeps_no_command_from_being_taken(fleet: Fleet) -> None:
    async with fleet.writes(old_build):
        context = await fleet.head(new_build)
        site = Site([ReadHead(replace(context, store=Counting(context.store, away=True)))])
        body = msgspec.json.encode({"order_id": "o1"})
        assert (await served(site, "POST", "/wrappings", body, {})).status == 201


class Counting(WrappedStore):
    """Counts how often it is looked into, or can't be."""

    def __init__(self, store: Store, *, away: bool = False) -> None:
        super().__init__(store)
        self._away = away
        self.snapshots = 0

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        self.snapshots += 1
        if self._away:
            raise Unavailable("the store is away")
        async with super().snapshot(once=once) as session:
            yield session


async def _is(state: Awaitable[str], wanted: str) -> bool:
    return await state == wanted


async def _is_left(context: Context) -> bool:
    return [row.state for row in (await rows(context.store, Parked)).values()] == ["unread"]


async def _sizes(context: Context, least: int) -> bool:
    held: dict[str, int] = {}
    for lease in (await rows(context.store, Lease)).values():
        if lease.name.startswith(PARTITION):
            held[lease.holder] = held.get(lease.holder, 0) + 1
    return len(held) == least
