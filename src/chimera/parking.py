"""Parking: a message that fails is set aside with its cause, and behind it every later one of its key.

A failed message is first tried again by itself, with growing pauses (`retrying`); when its tries are
used up it waits for a person (`parked`), and so does one at which the process ended again and again. Either way
the checkpoint moves on and other keys go ahead.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from chimera.endings import ProcessEnded
from chimera.entities import table_of
from chimera.errors import ChimeraError, Conflict, Unavailable
from chimera.execution import Executor, RefusedLate, Task, again_on_conflict
from chimera.messages import MAX_KEY, Message
from chimera.outcomes import Outcome, refused, text_of
from chimera.ports import Session
from chimera.records import Parked, ParkedPlace
from chimera.transaction import Unit

logger = logging.getLogger("chimera")


class Retry(NamedTuple):
    """How often a failed message is tried, and how long to wait in between, in seconds, doubling.

    `ends`: how many processes may end, one after another, while they handle a message.
    """

    tries: int = 5
    first_s: float = 0.1
    longest_s: float = 30.0
    ends: int = 5

    def due(self, tries: int, now: datetime) -> datetime | None:
        """When to try again after so many tries; None when it is a person's turn."""
        if tries >= self.tries:
            return None
        return now + timedelta(seconds=min(self.first_s * 2 ** (tries - 1), self.longest_s))


class Parking:
    """The messages that one consumer has set aside, kept in the service's own store."""

    def __init__(self, consumer: str, retry: Retry | None = None) -> None:
        self.consumer = consumer
        self._retry = retry or Retry()

    async def blocked(self, unit: Unit, keys: Sequence[str]) -> dict[str, int]:
        kept = {kept_key(key): key for key in keys}
        places = await self._places(unit.session, {"key": list(kept)})
        return {kept[place.key]: place.number for place in places}

    def queue(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        """Its number is the next, also where a log that was made anew counts from 1 again."""
        now, key = datetime.now(UTC), task.message.key
        blocked[key] = max(task.number, blocked[key] + 1)
        cause = "waits behind an earlier message of its key"
        unit.put(_parked(self.consumer, task._replace(number=blocked[key]), "behind", cause, 0, now, None))
        return Outcome("behind", "behind", "an earlier message of the same key is parked")

    def park(self, unit: Unit, task: Task, error: Exception) -> Outcome:
        now = datetime.now(UTC)
        tries, due = (error.times, None) if isinstance(error, ProcessEnded) else (1, self._retry.due(1, now))
        outcome = Outcome("retrying" if due else "parked", "failed", cause_of(error))
        unit.put(_parked(self.consumer, task, outcome.state, outcome.detail, tries, now, due))
        logger.warning(
            "%s: %s %s of key %r failed and is set aside (%s): %s",
            self.consumer,
            task.message.type,
            task.message.id,
            task.message.key,
            outcome.state,
            outcome.detail,
        )
        return outcome

    async def due(self, executor: Executor, now: datetime) -> list[str]:
        """The keys whose first message is to be tried again by now."""
        async with executor.store.snapshot() as session:
            places = await self._places(session, {"state": ["retrying"]})
        return list({place.key: None for place in places if place.due is None or place.due <= now})

    async def redrive(self, executor: Executor, key: str, *, by_hand: bool = False) -> list[Outcome]:
        """Try the messages of a key that are set aside, in order, until one fails again; what became of each.

        One at which the process ended too often is tried only `by_hand`.
        """
        outcomes: list[Outcome] = []
        while places := await self._waiting(executor, key):
            for place, following in zip(places, [*places[1:], None], strict=True):
                if (outcome := await self._try_alone(executor, place, following, by_hand)) is None:
                    continue
                outcomes.append(outcome)
                if outcome.state in ("retrying", "parked"):
                    return outcomes
        return outcomes

    async def drop(
        self, executor: Executor, key: str, message_id: str | None = None, *, why: str = "by hand"
    ) -> Parked | None:
        """Give up the first message of a key; those behind it are tried next. Returns what was dropped.

        With `message_id` only if that is the first one's. `why` is kept with what became of it.
        """
        places = await self._waiting(executor, key)
        return await again_on_conflict(lambda: self._drop(executor, places[0], message_id, why)) if places else None

    async def messages(self, session: Session, key: str) -> list[Parked]:
        """The messages of a key that are set aside, in order."""
        table = table_of(Parked)
        rows = await session.find(table, {"consumer": [self.consumer], "key": [kept_key(key)]})
        return sorted(map(table.from_row, rows), key=_order)

    async def _drop(self, executor: Executor, place: ParkedPlace, message_id: str | None, why: str) -> Parked | None:
        async with executor.store.transaction() as session:
            unit = Unit(executor.service, session)
            first, following = await self._hold(session, place, None)
            if first is None or message_id not in (None, first.id):
                return None
            outcome = Outcome("rejected", "dropped", f"dropped {why}; it had failed with: {first.cause}")
            self._close(executor, unit, first, following, outcome)
            await unit.flush()
        return first

    async def _try_alone(
        self, executor: Executor, place: ParkedPlace, following: ParkedPlace | None, by_hand: bool
    ) -> Outcome | None:
        """Try a message, announced and alone in this process, because it may be one at which the process ends."""
        async with executor.process.alone:
            ended = await again_on_conflict(lambda: self._announce(executor, place, by_hand))
            if ended is not None:
                return ended
            try:
                return await again_on_conflict(lambda: self._try_first(executor, place, following))
            except BaseException:
                with suppress(ChimeraError):
                    await again_on_conflict(lambda: self._withdraw(executor, place))
                raise

    async def _announce(self, executor: Executor, place: ParkedPlace, by_hand: bool) -> Outcome | None:
        """Write down that this process tries a message; the outcome when too many have ended doing so."""
        async with executor.store.transaction() as session:
            unit = Unit(executor.service, session)
            first, _ = await self._hold(session, place, place)
            if first is None:
                return None
            ends = (first.ends or 0) + (first.tried_by not in (None, executor.process.name))
            if ends >= self._retry.ends and not by_hand:
                outcome = Outcome("parked", "failed", cause_of(ProcessEnded(ends)))
                first = _failed(first, outcome, None)
                executor.remember(unit, message_of(first), outcome)
            else:
                outcome = None
                first = msgspec.structs.replace(first, tried_by=executor.process.name, ends=ends)
            unit.put(first)
            await unit.flush()
        if outcome is not None:
            executor.committed([outcome])
        return outcome

    async def _withdraw(self, executor: Executor, place: ParkedPlace) -> None:
        """The try stopped in order: it is not to blame."""
        async with executor.store.transaction() as session:
            unit = Unit(executor.service, session)
            first, _ = await self._hold(session, place, place)
            if first is not None and first.tried_by == executor.process.name:
                unit.put(msgspec.structs.replace(first, tried_by=None))
            await unit.flush()

    async def _try_first(self, executor: Executor, place: ParkedPlace, following: ParkedPlace | None) -> Outcome | None:
        first: Parked | None = None
        try:
            async with executor.store.transaction() as session:
                unit = Unit(executor.service, session)
                first, behind = await self._hold(session, place, following)
                if first is None:
                    return None
                if settled := await executor.settled(session, first.id):
                    outcome = settled._replace(duplicate=True)
                else:
                    outcome = await executor.attempt(unit, Task(message_of(first)))
                self._close(executor, unit, first, behind, outcome)
                await unit.flush()
        except (Unavailable, Conflict):
            raise
        except Exception as error:
            if first is None:
                raise
            cause = error
            outcome = await again_on_conflict(lambda: self._fail_again(executor, place, following, cause))
        executor.committed([outcome])
        return outcome

    async def _fail_again(
        self, executor: Executor, place: ParkedPlace, following: ParkedPlace | None, error: Exception
    ) -> Outcome:
        async with executor.store.transaction() as session:
            unit = Unit(executor.service, session)
            failed, behind = await self._hold(session, place, following)
            if failed is None:
                return Outcome("done", duplicate=True)
            if isinstance(error, RefusedLate):
                outcome = refused(error.refusal)
                self._close(executor, unit, failed, behind, outcome)
            else:
                due = self._retry.due(failed.tries + 1, datetime.now(UTC))
                outcome = Outcome("retrying" if due else "parked", "failed", cause_of(error))
                unit.put(msgspec.structs.replace(_failed(failed, outcome, due), tries=failed.tries + 1))
            executor.remember(unit, message_of(failed), outcome)
            await unit.flush()
        return outcome

    async def _waiting(self, executor: Executor, key: str) -> list[ParkedPlace]:
        async with executor.store.snapshot() as session:
            return await self._places(session, {"key": [kept_key(key)]})

    async def _places(self, session: Session, where: Mapping[str, Sequence[Any]]) -> list[ParkedPlace]:
        table = table_of(ParkedPlace)
        rows = await session.find(table, {"consumer": [self.consumer], **where})
        return sorted(map(table.from_row, rows), key=_order)

    async def _hold(
        self, session: Session, place: ParkedPlace, following: ParkedPlace | None
    ) -> tuple[Parked | None, Parked | None]:
        """The message at a place and the one behind it, held until the transaction ends.

        Where none was behind it, one may have come meanwhile; once the first is held, it is seen.
        """
        table = table_of(Parked)
        keys = [(each.consumer, each.key, each.partition, each.number) for each in (place, following or place)]
        found = {(row.partition, row.number): row for row in map(table.from_row, await session.load(table, keys))}
        first = found.get((place.partition, place.number))
        if first is None or following is not None:
            return first, found.get((following.partition, following.number)) if following else None
        behind = [each for each in await self._places(session, {"key": [place.key]}) if _order(each) > _order(place)]
        return await self._hold(session, place, behind[0]) if behind else (first, None)

    def _close(self, executor: Executor, unit: Unit, first: Parked, following: Parked | None, outcome: Outcome) -> None:
        """The first message is settled: take it out, and let the next of its key be tried."""
        unit.forget(first)
        if following is not None:
            unit.put(msgspec.structs.replace(following, state="retrying", due=datetime.now(UTC)))
        executor.remember(unit, message_of(first), outcome)


def _order(place: ParkedPlace | Parked) -> tuple[int, int]:
    return place.number, place.partition


def _failed(row: Parked, outcome: Outcome, due: datetime | None) -> Parked:
    return msgspec.structs.replace(
        row,
        state=outcome.state,
        cause=outcome.detail,
        last_at=datetime.now(UTC),
        due=due,
        tried_by=None,
        ends=None,
    )


def cause_of(error: Exception) -> str:
    """An error as people read it in a list of parked work."""
    return str(error) if isinstance(error, ProcessEnded) else f"{type(error).__name__}: {text_of(error)}"


def kept_key(key: str) -> str:
    """A key as it is kept here: one that is too long, which only a foreign writer of the log can send, by its hash."""
    if len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{key[: MAX_KEY - len(digest) - 1]}…{digest}"


def message_of(row: Parked) -> Message:
    """The message as it came."""
    key = row.key if row.long_key is None else row.long_key
    return Message(row.id, row.source, row.type, key, row.time, row.data, row.partition, row.number, row.traceparent)


def _parked(
    consumer: str, task: Task, state: str, cause: str, tries: int, now: datetime, due: datetime | None
) -> Parked:
    message = task.message
    return Parked(
        consumer,
        kept_key(message.key),
        message.partition,
        task.number,
        message.source,
        state,
        message.id,
        message.type,
        message.time,
        message.data,
        message.traceparent,
        cause,
        tries,
        now,
        now,
        due,
        long_key=message.key if len(message.key) > MAX_KEY else None,
    )
