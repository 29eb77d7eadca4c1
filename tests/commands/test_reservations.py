"""Whatever holders, clocks and operators do: a value is one holder's, as a model says, and the journal tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chimera import Expired, Service, Taken, Transaction
from chimera.core.context import Context
from chimera.core.timing import Limits
from chimera.entities import RESERVED, Reserved
from chimera.messages import Message
from chimera.ports import Owner
from chimera.run.engines import context_of
from chimera.testing.contracts.bank import HandClock
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.transaction import Unit
from chimera.unique import is_under_a_name
from chimera.upkeep.admission.naming import admit
from chimera.upkeep.drift.reserved import are_lost, mend_reserved, remake, say_again
from tests.support import TIME, all_of

VALUES = (1, 2, 3)
values = st.sampled_from(VALUES)
holders = st.sampled_from(["ann", "ben", "cleo"])
minutes = st.sampled_from([1, 2, 5, None])


class Held(NamedTuple):
    """Who has a value in the model, and until when."""

    by: str
    until: datetime | None


class Step(NamedTuple):
    """What a handler does: `reserve`, `confirm` or `release`."""

    what: str
    value: int
    holder: str
    minutes: int | None = None


steps = st.builds(Step, st.sampled_from(["reserve", "reserve", "confirm", "release"]), values, holders, minutes)


class Reservations(RuleBasedStateMachine):
    """Handlers in batches, time that goes on, rows that are lost, events that are trimmed, against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = HandClock()
        self.model: dict[int, Held] = {}
        self.context = self.runner.run(_started(self.clock))

    def teardown(self) -> None:
        self.runner.close()

    @rule(batch=st.lists(st.lists(steps, min_size=1, max_size=3), min_size=1, max_size=3))
    def handle(self, batch: list[list[Step]]) -> None:
        """Each handler is done or refused as a whole."""
        model = self.model
        expected = []
        for handler in batch:
            after = _after(model, handler, self.clock.at)
            expected.append(after is not None)
            model = model if after is None else after
        assert self.runner.run(_handled(self.context, batch)) == expected
        self.model = model

    @rule(seconds=st.sampled_from([1, 59, 60, 61, 300, 100_000]))
    def time_goes_on(self, seconds: int) -> None:
        """What is over is nobody's."""
        self.clock.at += timedelta(seconds=seconds)
        self.model = {value: held for value, held in self.model.items() if not _is_over(held, self.clock.at)}

    @rule(lost=st.sets(values))
    def rows_are_lost(self, lost: set[int]) -> None:
        """Some of them; they are made anew, and nothing is left."""

        async def work() -> None:
            rows = await _rows(self.context)
            async with self.context.store.transaction() as session:
                await session.delete(RESERVED, [(row.digest,) for at, row in enumerate(rows) if at + 1 in lost])
            assert (await remake(self.context)).left == 0

        self.runner.run(work())

    @rule()
    def the_table_is_lost(self) -> None:
        """All of it; the next start makes it anew."""

        async def work() -> None:
            async with self.context.store.transaction() as session:
                rows: list[Reserved] = await all_of(self.context.store, Reserved)
                await session.delete(RESERVED, [(row.digest,) for row in rows])
            assert await are_lost(self.context)
            await admit(self.context)
            assert not await are_lost(self.context)

        self.runner.run(work())

    @rule()
    def events_are_trimmed(self) -> None:
        """All that there are; what still counts is said once more."""

        async def work() -> None:
            for partition, head in (await self.context.store.heads()).items():
                oldest = (await self.context.store.oldest())[partition]
                said = {each.key for each in await self.context.store.journal(partition, oldest - 1, 1000)}
                async with self.context.store.transaction() as session:
                    await say_again(self.context, session, said, head)
                    await session.trim(partition, head)

        self.runner.run(work())

    @rule()
    def what_is_over_goes(self) -> None:
        """Nobody notices."""
        self.runner.run(_of_any(mend_reserved(self.context)))

    @invariant()
    def who_has_it_is_known(self) -> None:
        """By handlers, and by rows, which are as the journal says."""
        found = self.runner.run(_holders(self.context))
        assert found == {value: self.model[value].by if value in self.model else None for value in VALUES}
        proof = self.runner.run(remake(self.context))
        assert (proof.missing, proof.changed, proof.extra, proof.unsaid) == (0, 0, 0, 0)
        assert proof.equal == len(self.model)


TestReservations = Reservations.TestCase
TestReservations.settings = settings(derandomize=True, deadline=None, max_examples=60, stateful_step_count=30)


async def _of_any(work: Awaitable[object]) -> None:
    await work


async def _started(clock: HandClock) -> Context:
    service = Service("desk", partitions=2)
    store = MemoryStore()
    context = context_of(service, MemoryLog(), store, MemoryViews(), _nobody, clock=clock)
    context = replace(context, limits=Limits(trim_page=2))
    await context.prepare()
    await admit(context)
    return context


def _nobody(name: str) -> Owner:
    raise AssertionError(f"{name} is not asked")


async def _handled(context: Context, batch: list[list[Step]]) -> list[bool]:
    """Which handlers were done, in one transaction."""
    done = []
    async with context.store.transaction() as session:
        unit = Unit(context.service, session)
        for handler in batch:
            tx = Transaction(
                unit, Message("c", "desk", "desk.Do", "key", TIME, b"{}", 0), "key", None, context.clock.now
            )
            try:
                for step in handler:
                    await _do(tx, step)
            except (Taken, Expired):
                done.append(False)
                continue
            tx.merge()
            done.append(True)
        await unit.flush()
        await unit.number()
    return done


async def _do(tx: Transaction, step: Step) -> None:
    what: dict[str, Callable[..., Awaitable[object]]] = {"confirm": tx.confirm, "release": tx.release}
    if step.what == "reserve":
        until = None if step.minutes is None else timedelta(minutes=step.minutes)
        await tx.reserve("seat", step.value, step.holder, until=until)
    else:
        await what[step.what]("seat", step.value, step.holder)


def _after(model: dict[int, Held], handler: list[Step], now: datetime) -> dict[int, Held] | None:
    """The model after a handler; None where it is refused."""
    after = dict(model)
    for what, value, holder, minutes in handler:
        held = after.get(value)
        if what == "release":
            if held and held.by == holder:
                del after[value]
        elif (held and held.by != holder) or (not held and what == "confirm"):
            return None
        elif what == "confirm" or minutes is None or (held and held.until is None):
            after[value] = Held(holder, None)
        else:
            end = now + timedelta(minutes=minutes)
            after[value] = Held(holder, max(end, held.until) if held and held.until else end)
    return after


def _is_over(held: Held, now: datetime) -> bool:
    return held.until is not None and held.until <= now


async def _rows(context: Context) -> list[Reserved]:
    rows: list[Reserved] = await all_of(context.store, Reserved)
    return [row for row in rows if is_under_a_name(row.name)]


async def _holders(context: Context) -> dict[int, str | None]:
    async with context.store.transaction() as session:
        unit = Unit(context.service, session)
        tx = Transaction(unit, Message("c", "desk", "desk.Do", "key", TIME, b"{}", 0), "key", None, context.clock.now)
        return {value: await tx.reserved("seat", value) for value in VALUES}
