"""The keys of subjects: made, kept, known for a moment, and asked for where another service has them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from chimera.core.aio.coalesce import Coalescer
from chimera.core.clock import Clock
from chimera.core.keys.ciphers import KEY, Masters, conceal, reveal
from chimera.entities import SUBJECT_KEYS, Row, SubjectKey
from chimera.errors import ChimeraError, Conflict, Unavailable
from chimera.personal import MARK, Personal
from chimera.ports import HasKeys, KnownKey, Store

TRIES = 10


class SubjectKeys:
    """The keys of the subjects whose values a service has concealed, and those of others, for a moment.

    `ask` gives another service as its owner. A key is known here for `kept_s` seconds, at most `most` of them: for so
    long at most it is used after it was destroyed elsewhere.
    """

    def __init__(
        self,
        service: str,
        store: Store,
        clock: Clock,
        masters: Masters,
        ask: Callable[[str], object],
        kept_s: float,
        most: int,
    ) -> None:
        self.service = service
        self.masters = masters
        self._store = store
        self._clock = clock
        self._ask = ask
        self._kept_s = kept_s
        self._most = most
        self._known: OrderedDict[tuple[str, str], tuple[KnownKey, float]] = OrderedDict()
        self._making: Coalescer[str, KnownKey] = Coalescer(self._make)

    async def of(self, subjects: Collection[str], service: str = "") -> dict[str, KnownKey]:
        """The keys of a service's subjects, empty ones for who has none. Raises Unavailable."""
        service = service or self.service
        oldest = self._clock.monotonic() - self._kept_s
        found = {each: self._known[service, each] for each in subjects if (service, each) in self._known}
        keys = {each: known for each, (known, at) in found.items() if at >= oldest}
        if missing := sorted(set(subjects) - keys.keys()):
            read = await (self._read(missing) if service == self.service else self._asked(service, missing))
            keys |= {each: read.get(each, KnownKey("", b"")) for each in missing}
            for each in missing:
                if keys[each].id:  # one that is not there yet may be there in a moment
                    self._remember(service, each, keys[each])
        return keys

    async def made(self, subject: str) -> KnownKey:
        """The key of a subject of this service, made where there was none; an empty one for who was forgotten."""
        known, at = self._known.get((self.service, subject), (None, 0.0))
        if known is not None and known.id and at >= self._clock.monotonic() - self._kept_s:
            return known
        return await self._making.submit(subject)

    def new(self, subject: str) -> Row:
        """The row of a new key."""
        random = self._clock.random_bytes
        wrapped = self.masters.wrap(subject, random(KEY), random(12))
        return SUBJECT_KEYS.to_row(SubjectKey(subject, random(4).hex(), wrapped, self.masters.first, self._clock.now()))

    def unwrapped(self, row: Row | None) -> KnownKey:
        """The key of a row; an empty one for none, and for who was forgotten. Raises Unavailable."""
        if row is None:
            return KnownKey("", b"")
        kept = cast("SubjectKey", SUBJECT_KEYS.from_row(row))
        if not kept.wrapped:
            return KnownKey(kept.id, b"")
        return KnownKey(kept.id, self.masters.unwrap(kept.subject, kept.master, kept.wrapped))

    def concealed(self, subject: str, known: KnownKey, data: bytes, salt: str) -> str:
        """The text of a value's JSON; where the key was destroyed, that it is gone."""
        return conceal(known.key, self.service, known.id, subject, data, salt) if known.key else MARK

    def conceal(self, row: Row, data: bytes, salt: str) -> str:
        """As `concealed`, with the key of a row. Raises Unavailable."""
        return self.concealed(str(row[0]), self.unwrapped(row), data, salt)

    async def reveal(self, values: Sequence[Personal[Any]], rows: Mapping[str, Row | None] | None = None) -> list[Any]:
        """What each of them holds, or Forgotten. Raises Unavailable where a key can't be had now.

        `rows`: those of this service's subjects, where a transaction has read them.
        """
        wanted: dict[str, set[str]] = {}
        for each in values:
            if (parts := each.parts) is not None:
                wanted.setdefault(parts.service, set()).add(parts.subject)
        keys = {
            service: {each: self.unwrapped(rows.get(each)) for each in subjects}
            if rows is not None and service == self.service
            else await self.of(subjects, service)
            for service, subjects in wanted.items()
        }
        try:
            return [each.read(_opened(each, keys)) for each in values]
        except ValueError as error:
            raise ChimeraError(str(error)) from None

    def forget(self, subject: str) -> None:
        """Know the key of a subject no more."""
        self._known.pop((self.service, subject), None)

    def _remember(self, service: str, subject: str, known: KnownKey) -> None:
        self._known[service, subject] = known, self._clock.monotonic()
        self._known.move_to_end((service, subject))
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    async def _read(self, subjects: Sequence[str]) -> dict[str, KnownKey]:
        async with self._store.snapshot(once=True) as session:
            rows = await session.load(SUBJECT_KEYS, [(each,) for each in subjects])
        return {str(row[0]): self.unwrapped(row) for row in rows}

    async def _asked(self, service: str, subjects: Sequence[str]) -> Mapping[str, KnownKey]:
        owner = self._ask(service)
        if not isinstance(owner, HasKeys):
            raise Unavailable(f"{service} has the keys of personal values, and tells none")
        return await owner.subject_keys(subjects)

    async def _make(self, subjects: list[str]) -> list[KnownKey | BaseException]:
        wanted = sorted(set(subjects))
        for _ in range(TRIES):
            try:
                async with self._store.transaction() as session:
                    rows = {str(row[0]): row for row in await session.load(SUBJECT_KEYS, [(each,) for each in wanted])}
                    made = {each: self.new(each) for each in wanted if each not in rows}
                    if made:
                        await session.save(SUBJECT_KEYS, list(made.values()))
            except Conflict:
                continue
            found = {each: self.unwrapped(row) for each, row in (rows | made).items()}
            for each, known in found.items():
                self._remember(self.service, each, known)
            return [found[each] for each in subjects]
        raise Unavailable("keys of subjects can't be made: others make the same ones again and again")


def _opened(value: Personal[Any], keys: Mapping[str, Mapping[str, KnownKey]]) -> bytes | None:
    """The JSON of a value; None where its key is gone."""
    if not value.is_concealed:
        return value.given()
    if (parts := value.parts) is None:
        return None
    known = keys[parts.service][parts.subject]
    return reveal(known.key, parts) if known.key and known.id == parts.key else None
