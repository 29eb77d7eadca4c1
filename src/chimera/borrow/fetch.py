"""Asking an owner: one call for all keys wanted at once, one flight per key, and none while it keeps failing."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from chimera.borrow.breaker import Breaker
from chimera.borrow.last_known import parted, with_position
from chimera.core.aio.coalesce import Coalescer
from chimera.core.aio.tasks import take_exception
from chimera.core.context import Context
from chimera.core.names import last_known_key
from chimera.errors import Unavailable
from chimera.forms import AnyDocument, Decodes, decoder_of
from chimera.messages import Position
from chimera.parts import Borrow
from chimera.ports import LastKnown

logger = logging.getLogger("chimera")


Doc = TypeVar("Doc", bound=AnyDocument)

CALLS = 4
SLOW = 2
"""A call that takes so many budgets counts as a failure for the circuit breaker; what it still answers is used."""
GARBAGE = (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError)


class OwnersAnswer(NamedTuple, Generic[Doc]):
    """The owner's document of a key, or None where it has none, as it was `age` seconds before it was asked for.

    `position`: as in `chimera.ports.Fetched`; None from an owner that does not tell it. `asked_at`: when the owner was
    asked (monotonic seconds).
    """

    value: Doc | None
    position: Position | None = None
    age: float = 0.0
    asked_at: float = 0.0


class Fetches(Generic[Doc]):
    """The owner's documents of one share, as one process of a borrower asks for them.

    At most `CALLS` calls are under way. What the owner answers is checked against the declared type, and remembered
    as last known good, garbage never; that a key has no document is remembered for `Timing.absent_s`.
    """

    def __init__(self, context: Context, borrow: Borrow[Doc], breaker: Breaker | None = None) -> None:
        self._context = context
        self._borrow = borrow
        self._decoder: Decodes[Doc] = decoder_of(borrow.document)
        self._breaker = breaker or Breaker(context.clock)
        self._calls: Coalescer[str, OwnersAnswer[Doc]] = Coalescer(self._call, concurrency=CALLS)
        self._recalls: Coalescer[str, LastKnown | None] = Coalescer(self._recall, concurrency=CALLS)
        self._keeps: Coalescer[tuple[str, bytes | None], None] = Coalescer(self._keep)
        self._queued: dict[str, asyncio.Future[OwnersAnswer[Doc]]] = {}
        self._flying: dict[str, asyncio.Future[OwnersAnswer[Doc]]] = {}
        self._absent: OrderedDict[str, OwnersAnswer[Doc]] = OrderedDict()
        self._probe_is_due = False

    async def get(self, key: str, until: float, *, anew: bool = False) -> OwnersAnswer[Doc]:
        """The owner's answer. Raises Unavailable where it can't be had.

        At `until` (monotonic seconds) at the latest, and what it takes to recall the last known value is left over.

        `anew`: as the owner has it from now on; else a call that is under way will do, or that there was none lately.
        """
        now = self._context.clock.monotonic()
        if not anew and key in self._absent:
            absent = self._absent[key]
            if now - absent.asked_at < self._context.timing.absent_s:
                return absent._replace(age=now - absent.asked_at)
        if self._breaker.state == "open":
            raise self._spared()
        flight = self._flight(key, anew=anew)
        await asyncio.wait(
            [flight], timeout=max(0.0, until - self._context.clock.monotonic() - self._context.last_known.wait_s)
        )
        if not flight.done():
            raise Unavailable(f"{self._borrow.owner} did not answer in time")
        answer = flight.result()
        return answer._replace(age=max(0.0, now - answer.asked_at))

    async def last_known(self, key: str) -> OwnersAnswer[Doc] | None:
        """The value that the owner last answered; None where none is remembered."""
        known = await self._recalls.submit(key)
        try:
            if known is None:
                return None
            document, position = parted(known.data)
            return OwnersAnswer(self._decoder.decode(document), position, known.age_s)
        except (*GARBAGE, ValueError) as error:
            logger.warning("what was last known of %r is not a %s: %s", key, self._borrow.document.__name__, error)
            return None

    async def drain(self) -> None:
        """Wait until no call is under way."""
        await self._calls.drain()

    def _flight(self, key: str, *, anew: bool) -> asyncio.Future[OwnersAnswer[Doc]]:
        is_probe = self._breaker.state == "half-open"
        flight = self._queued.get(key) or (None if anew or is_probe else self._flying.get(key))
        if flight is None:
            if len(self._queued) >= self._context.limits.flights:
                raise Unavailable(f"{len(self._queued)} keys wait for {self._borrow.owner} already")
            flight = self._queued[key] = self._calls.submit(key)
            flight.add_done_callback(take_exception)
        if is_probe:  # from now on nobody else waits, though the call itself may have to wait for hanging ones
            self._probe_is_due = self._breaker.admits()
        return flight

    async def _call(self, keys: list[str]) -> Sequence[OwnersAnswer[Doc] | BaseException]:
        flights = {key: self._queued.pop(key) for key in keys}
        self._flying.update(flights)
        try:
            return await self._answers(keys, flights)
        finally:
            for key, flight in flights.items():
                if self._flying.get(key) is flight:
                    del self._flying[key]

    async def _answers(
        self, keys: Sequence[str], flights: Mapping[str, asyncio.Future[OwnersAnswer[Doc]]]
    ) -> Sequence[OwnersAnswer[Doc] | BaseException]:
        owner, service, share = self._borrow.owner, self._context.service.name, self._borrow.share
        admitted, self._probe_is_due = self._probe_is_due or self._breaker.admits(), False
        if not admitted:
            raise self._spared()
        outcome, given_up, asked_at = "failed", asyncio.Event(), self._context.clock.monotonic()
        slow = asyncio.get_running_loop().call_later(SLOW * self._borrow.budget, self._give_up, given_up)
        try:
            async with asyncio.timeout(max(self._context.timing.call_s, self._borrow.budget)):
                found = await self._context.owners[owner].fetch(share, keys)
            # Of two calls that were under way at once, only what the later one says is remembered.
            latest = {key for key in keys if self._flying.get(key) is flights[key]}
            answers = self._checked({key: found.documents.get(key) for key in keys}, found.positions, latest, asked_at)
            outcome = "answered" if any(not isinstance(answer, Exception) for answer in answers) else "garbage"
        except TimeoutError as error:
            outcome = "timeout"
            raise Unavailable(f"{owner} did not answer in time") from error
        finally:
            slow.cancel()
            self._context.metrics.owner_called(service, share, outcome)
            if not given_up.is_set():
                (self._breaker.succeeded if outcome == "answered" else self._breaker.failed)()
            self._context.metrics.circuit(service, share, is_open=self._breaker.state != "closed")
        return answers

    def _give_up(self, given_up: asyncio.Event) -> None:
        given_up.set()
        self._breaker.failed()

    def _spared(self) -> Unavailable:
        self._context.metrics.owner_called(self._context.service.name, self._borrow.share, "spared")
        return Unavailable(f"{self._borrow.owner} failed again and again; it is left alone for a moment")

    def _checked(
        self,
        documents: Mapping[str, bytes | None],
        positions: Mapping[str, Position],
        latest: Collection[str],
        asked_at: float,
    ) -> Sequence[OwnersAnswer[Doc] | BaseException]:
        """The documents that are some; the latest are remembered, or that there is none. Nobody waits for that."""
        answers: list[OwnersAnswer[Doc] | BaseException] = []
        garbage: dict[str, Exception] = {}
        for key, document in documents.items():
            position = positions.get(key)
            try:
                answer: OwnersAnswer[Doc] = OwnersAnswer(
                    None if document is None else self._decoder.decode(document), position, asked_at=asked_at
                )
            except GARBAGE as error:
                garbage[key] = error
                answers.append(Unavailable(f"{self._borrow.owner} answered garbage"))
            else:
                answers.append(answer)
                if key not in latest:
                    continue
                self._note_absence(key, answer if document is None else None)
                if len(self._keeps) < self._context.limits.keeps:
                    self._keeps.submit((key, document and with_position(document, position)))
        if garbage:
            key, cause = next(iter(garbage.items()))
            logger.warning(
                "%s answered something else than %s for %d of %d keys, such as %r: %s",
                self._borrow.owner,
                self._borrow.document.__name__,
                len(garbage),
                len(documents),
                key,
                cause,
            )
        return answers

    def _note_absence(self, key: str, absent: OwnersAnswer[Doc] | None) -> None:
        self._absent.pop(key, None)
        if absent:
            self._absent[key] = absent
            if len(self._absent) > self._context.limits.absent_keys:
                self._absent.popitem(last=False)

    async def _recall(self, keys: list[str]) -> Sequence[LastKnown | None]:
        known = await self._context.last_known.get_many([self._name(key) for key in keys])
        return [known.get(self._name(key)) for key in keys]

    async def _keep(self, documents: list[tuple[str, bytes | None]]) -> Sequence[None]:
        await self._context.last_known.put_many({self._name(key): document for key, document in documents})
        return [None] * len(documents)

    def _name(self, key: str) -> str:
        return last_known_key(self._context.service.name, self._borrow.name, key)
