"""Accepting commands: from a request's body to a message, and from there to the log or straight to its handler."""

from __future__ import annotations

import asyncio
import os
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import NamedTuple

import msgspec

from chimera.body import Body, wire_type
from chimera.coalesce import Coalescer
from chimera.commands import look_up
from chimera.errors import Invalid, Unavailable
from chimera.execution import Task
from chimera.messages import MAX_KEY, Command, Message, now, partition_of
from chimera.outcomes import Outcome, fingerprint_of
from chimera.service import Handler
from chimera.web.http import NOT_JSON, invalid
from chimera.web.objects import read_object, with_whole_numbers

WAITING_LIMIT = 20_000
HELD_BYTES = 64 << 20
DIRECT_BATCH = 200
LATELY_KEYS = 10_000
LATELY_S = 60.0
"""Which commands with an Idempotency-Key a process knows without the inbox, where they are once they are executed."""
LOOK_S = 0.25
"""Seconds that a command waits for the inbox at most: it must be accepted also while the store is down."""
LOOKS = 2_000
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_NAMESPACE = uuid.UUID("9a3f7c1e-6b52-5d0a-8f4e-2c7d1b90e6a4")


class Accepted(NamedTuple):
    """A command that passed the shallow check."""

    message: Message
    command: Command


class CommandDecoder:
    """Makes one type of command from requests.

    The path's parameters are fields of the command; a key that is neither in the path nor in the body
    is made here, from the command's id.
    """

    def __init__(self, body: Body, handler: Handler, path_fields: Sequence[str]) -> None:
        self._service = body.service
        self._type = wire_type(body.service, handler.command.__name__)
        self._key = handler.command.__key_fields__[0]
        self._path_fields = path_fields
        self._decoder = msgspec.json.Decoder(handler.command)

    def decode(
        self, body: bytes, path: Mapping[str, str], idempotency_key: str | None, traceparent: str | None
    ) -> Accepted:
        """The command and its message. Raises Invalid with the field at fault."""
        command_id = self._command_id(idempotency_key)
        fields = read_object(body)
        is_whole = self._key in fields and not self._path_fields
        for name in self._path_fields:
            if name in fields:
                raise Invalid(f"{name} is in the path; leave it out of the body", field=f"$.{name}")
            fields[name] = msgspec.Raw(msgspec.json.encode(path[name]))
        if self._key not in fields:
            fields[self._key] = msgspec.Raw(msgspec.json.encode(str(uuid.uuid5(_NAMESPACE, f"{command_id}/key"))))
        data, command = self._check(body if is_whole else msgspec.json.encode(fields))
        key = command.key
        if len(key) > MAX_KEY:
            place = "path" if self._key in self._path_fields else "$"
            raise Invalid(f"a key has at most {MAX_KEY} characters", field=f"{place}.{self._key}")
        message = Message(
            id=command_id,
            source=self._service.name,
            type=self._type,
            key=key,
            time=now(),
            data=data,
            partition=partition_of(key, self._service.partitions),
            traceparent=traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else _new_traceparent(),
        )
        return Accepted(message, command)

    def _check(self, data: bytes) -> tuple[bytes, Command]:
        try:
            try:
                return data, self._decoder.decode(data)
            except msgspec.ValidationError as error:
                if (whole := with_whole_numbers(data)) == data:
                    raise
                with suppress(msgspec.ValidationError):
                    return whole, self._decoder.decode(whole)
                raise error from None
        except NOT_JSON as error:
            refused = invalid(error)
            if refused.field.removeprefix("$.") in self._path_fields:
                refused.field = f"path.{refused.field.removeprefix('$.')}"
            raise refused from error

    def _command_id(self, idempotency_key: str | None) -> str:
        if idempotency_key is None:
            return new_id()
        if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise Invalid(
                "an Idempotency-Key is 1 to 255 visible ASCII characters", field="header.Idempotency-Key", status=400
            )
        return str(uuid.uuid5(_NAMESPACE, f"{self._type}/{idempotency_key}"))


class Intake:
    """Takes messages for a service: those that arrive together share one append, or one transaction.

    It holds at most WAITING_LIMIT commands and HELD_BYTES of their bodies; whoever comes beyond that is refused before
    anything of hers is kept.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self._appends: Coalescer[Message, None] = Coalescer(self._append)
        self._directs: Coalescer[Task, Outcome] = Coalescer(body.direct.run, limit=DIRECT_BATCH)
        self._reuse = Reuse(body)
        self._held = 0

    def hold(self, size: int) -> None:
        """Make room for a body of so many bytes, until it is let go. Raises Unavailable when there is none."""
        if self._held + size > HELD_BYTES:
            raise Unavailable(f"{self._held} bytes of commands wait for {self._body.service.name}")
        self._held += size

    def let_go(self, size: int) -> None:
        """The command of a body of so many bytes is answered."""
        self._held -= size

    async def append(self, message: Message) -> None:
        """Returns once the log has confirmed the message. Raises Unavailable, or Invalid for a key that was reused."""
        fingerprint = fingerprint_of(message)
        if fingerprint is None:
            await self._submit(message)
            return
        with await self._reuse.claimed(message.id, fingerprint):
            await self._submit(message)

    async def execute(self, message: Message) -> Outcome:
        """Handle the message now, in one transaction with those that came at the same time. Raises Unavailable."""
        self._check_room(len(self._directs))
        return await self._directs.submit(Task(message))

    async def drain(self) -> None:
        """Wait until everything taken is answered."""
        await self._appends.drain()
        await self._directs.drain()

    def _submit(self, message: Message) -> asyncio.Future[None]:
        self._check_room(len(self._appends))
        return self._appends.submit(message)

    async def _append(self, messages: list[Message]) -> Sequence[None]:
        await self._body.log.append(self._body.commands_topic, messages)
        for message in messages:
            self._body.metrics.accepted(self._body.service.name, message.type)
        return [None] * len(messages)

    def _check_room(self, waiting: int) -> None:
        if waiting >= WAITING_LIMIT:
            raise Unavailable(f"{waiting} commands wait for {self._body.service.name}")


class Reuse:
    """Finds out whether an Idempotency-Key was used for another payload before, as far as that is known here.

    It is known of what this process accepted lately, and of what is executed. A command that slips through, because
    another process has just accepted the first one, has no effect: the write head leaves the first one's.
    """

    def __init__(self, body: Body) -> None:
        self._lately: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lookups: Coalescer[str, Outcome | None] = Coalescer(partial(look_up, body), concurrency=4)

    async def claimed(self, command_id: str, fingerprint: str) -> AbstractContextManager[None]:
        """Accept the command inside: if that fails, its key is free again. Raises Invalid if it was used before."""
        self._forget()
        kept = None if command_id in self._lately else await self._kept(command_id)
        known, _ = self._lately.get(command_id, (kept, 0.0))
        if known not in (None, fingerprint):
            raise key_reused()
        return self._claim(command_id, fingerprint)

    @contextmanager
    def _claim(self, command_id: str, fingerprint: str) -> Iterator[None]:
        is_first = command_id not in self._lately
        self._lately.setdefault(command_id, (fingerprint, time.monotonic()))
        try:
            yield
        except BaseException:
            if is_first:
                self._lately.pop(command_id, None)
            raise

    def _forget(self) -> None:
        oldest = time.monotonic() - LATELY_S
        while self._lately and (len(self._lately) >= LATELY_KEYS or next(iter(self._lately.values()))[1] < oldest):
            self._lately.popitem(last=False)

    async def _kept(self, command_id: str) -> str | None:
        """The fingerprint that the inbox has, if it tells in time."""
        if len(self._lookups) >= LOOKS:
            return None
        try:
            async with asyncio.timeout(LOOK_S):
                outcome = await self._lookups.submit(command_id)
        except (Unavailable, TimeoutError):
            return None
        return outcome.fingerprint if outcome else None


def key_reused() -> Invalid:
    """The refusal of an Idempotency-Key that was used for another payload."""
    return Invalid(
        "this Idempotency-Key was used with another payload before; send another key, or the same payload",
        field="header.Idempotency-Key",
        status=409,
    )


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): ordered by time, so that it is cheap to keep in an index."""
    moment, random = int(time.time() * 1000), os.urandom(10).hex()
    variant = "89ab"[int(random[3], 16) & 0x3]
    text = f"{moment:012x}"
    return f"{text[:8]}-{text[8:]}-7{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"


def _new_traceparent() -> str:
    random = os.urandom(24).hex()
    return f"00-{random[:32]}-{random[32:]}-01"
