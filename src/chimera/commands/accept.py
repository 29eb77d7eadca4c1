"""Accepting commands: from a request's body to a message, and from there to the log or straight to its handler."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec

from chimera.caller import Caller, Request
from chimera.commands.apart.announced import Announced
from chimera.commands.apart.direct import Direct
from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.commands.inbox import NAMESPACE, Outcome, command_id, fingerprint_of
from chimera.commands.reuse import Reuse
from chimera.core.aio.coalesce import Coalescer
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.json import NOT_JSON, faults_of, invalid, read_object, with_whole_numbers
from chimera.core.keys.concealing import conceal_all
from chimera.errors import ChimeraError, DeclarationError, FieldError, Invalid, NotYet, Unavailable, Unfit
from chimera.forms import Mismatch, decoder_of, fields_of, is_model, taker_of
from chimera.messages import MAX_KEY, AnyCommand, Message, partition_of
from chimera.parts import Handler, is_made
from chimera.personal import holds_annotated, holds_personal
from chimera.versions import base_of

DIRECT_BATCH = 200
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def _is_text(type_: object) -> bool:
    """True for a type that JSON has as text: what comes in a path is that already."""
    return isinstance(msgspec.inspect.type_info(type_), msgspec.inspect.StrType)


def _faults(command: type[AnyCommand], data: bytes, error: Exception) -> Sequence[FieldError]:
    """What is wrong with each field, where it is more than one."""
    return error.faults if isinstance(error, Mismatch) else faults_of(command, data)


class Accepted(NamedTuple):
    """A command that passed the shallow check."""

    message: Message
    command: AnyCommand


class Misfit(Invalid):
    """A body that is no command to this code; to other code it may be one. `data`: as its message would have it."""

    def __init__(self, refused: Invalid, type_: str, data: bytes) -> None:
        super().__init__(refused.detail, field=refused.field, status=refused.status, errors=refused.errors)
        self.type = type_
        self.data = data


class CommandDecoder:
    """Makes one type of command from requests.

    The path's parameters are fields of the command; a key that is neither in the path nor in the body
    is made here, from the command's id.
    """

    def __init__(self, context: Context, handler: Handler, path_fields: Sequence[str]) -> None:
        self._service = context.service
        self._clock = context.clock
        self._type = handler.command.types_in(context.service.name)[0]
        self._key = handler.command.__key_fields__[0]
        self._path_fields = path_fields
        fields = fields_of(handler.command)
        types = {field.name: field.type for field in fields}
        self._written = {field.name: field.encode_name for field in fields}
        self._path_names = {self._written[name]: name for name in path_fields}
        texts = path_fields if is_model(handler.command) else [name for name in path_fields if _is_text(types[name])]
        self._converted = {name: types[name] for name in path_fields if name not in texts}
        self.is_personal = holds_personal(handler.command)
        self._decoder = taker_of(handler.command) if self.is_personal else decoder_of(handler.command)
        if wrong := [name for name in path_fields if holds_annotated(types[name])]:
            raise DeclarationError(
                f"{handler.signature.at}: {wrong[0]} is personal and in the path, which proxies and logs keep; put it "
                "into the body"
            )
        self._makes_keys = is_made(handler.command)
        self._in_body = self._written.get(self._key, self._key.partition(".")[0])
        self._wrapped = handler.wrapped
        self._faults = partial(_faults, handler.command)

    def decode(
        self,
        body: bytes,
        path: Mapping[str, str],
        idempotency_key: str | None,
        traceparent: str | None,
        caller: Caller | None = None,
        metadata: str = "",
    ) -> Accepted:
        """The command and its message. Raises Invalid with the field at fault."""
        id_ = self._command_id(idempotency_key, caller.subject if caller else "")
        fields = self._unwrapped(read_object(body)) if self._wrapped else read_object(body)
        is_whole = self._in_body in fields and not self._path_fields and not self._wrapped
        for name in self._path_fields:
            if (written := self._written[name]) in fields:
                raise Invalid(f"{written} is in the path; leave it out of the body", field=f"$.{written}")
            fields[written] = msgspec.Raw(msgspec.json.encode(self._from_path(name, path[name])))
        if self._makes_keys and self._in_body not in fields:
            fields[self._in_body] = msgspec.Raw(msgspec.json.encode(str(uuid.uuid5(NAMESPACE, f"{id_}/key"))))
        data, command = self._check(body if is_whole else msgspec.json.encode(fields))
        key = command.key
        if len(key) > MAX_KEY:
            place = "path" if self._key in self._path_fields else "$"
            raise Invalid(f"a key has at most {MAX_KEY} characters", field=f"{place}.{self._key}")
        message = Message(
            id=id_,
            source=self._service.name,
            type=self._type,
            key=key,
            time=self._clock.stamp(),
            data=data,
            partition=partition_of(key, self._service.partitions),
            traceparent=traceparent
            if traceparent and _TRACEPARENT.fullmatch(traceparent)
            else _new_traceparent(self._clock),
            metadata=metadata,
        )
        return Accepted(message, command)

    def _from_path(self, name: str, text: str) -> object:
        """The text of a path's parameter as JSON has its field: a number, where it is one. Raises Invalid."""
        if (type_ := self._converted.get(name)) is None:
            return text
        try:
            return msgspec.to_builtins(msgspec.convert(text, type_, strict=False))
        except msgspec.ValidationError as error:
            raise invalid(error, f"path.{name}") from error

    def _unwrapped(self, fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
        if unknown := fields.keys() - {self._wrapped}:
            raise Invalid(f"unknown beside {self._wrapped}: {min(unknown)[:64]}", field=f"$.{min(unknown)[:64]}")
        if self._wrapped not in fields:
            raise Invalid(
                f"the fields are in an object {self._wrapped!r}, which is missing", field=f"$.{self._wrapped}"
            )
        try:
            return read_object(bytes(fields[self._wrapped]))
        except Invalid as error:
            error.field = error.field.replace("$", f"$.{self._wrapped}", 1)
            raise

    def _placed(self, field: str) -> str:
        """Where a field of the command came from."""
        if (name := self._path_names.get(field.removeprefix("$."))) is not None:
            return f"path.{name}"
        return field.replace("$", f"$.{self._wrapped}", 1) if self._wrapped else field

    def _check(self, data: bytes) -> tuple[bytes, AnyCommand]:
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
            refused.field = self._placed(refused.field)
            faults = self._faults(data, error)
            refused.errors = tuple(FieldError(self._placed(each.field), each.detail) for each in faults)
            raise Misfit(refused, self._type, data) from error

    def _command_id(self, idempotency_key: str | None, subject: str) -> str:
        if idempotency_key is None:
            return self._clock.new_id()
        if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise Invalid(
                "an Idempotency-Key is 1 to 255 visible ASCII characters", field="header.Idempotency-Key", status=400
            )
        return command_id(base_of(self._type), idempotency_key, subject)


class Intake:
    """Takes messages for a service: those that arrive together share one append, or one transaction.

    It holds at most `waiting_commands` and `held_bytes` of their bodies (see Limits); whoever comes beyond that is
    refused before anything of hers is stored.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._appends: Coalescer[Message, None] = Coalescer(self._append)
        self._direct = Direct(direct_executor(context), context.limits.apart)
        self._directs: Coalescer[Task, Outcome] = Coalescer(self._direct.run, limit=DIRECT_BATCH)
        self._reuse = Reuse(context)
        self._seal = context.seals.of(context.service.name)
        self._announced = Announced(context)
        self._held = 0

    def hold(self, size: int) -> None:
        """Make room for a body of so many bytes, until it is let go. Raises Unavailable when there is none."""
        if self._held + size > self._context.limits.held_bytes:
            raise Unavailable(f"{self._held} bytes of commands wait for {self._context.service.name}")
        self._held += size

    def let_go(self, size: int) -> None:
        """The command of a body of so many bytes is answered."""
        self._held -= size

    async def conceal(self, accepted: Accepted) -> Accepted:
        """The same, without what is personal in it. Raises Invalid (410) for who was forgotten, or Unavailable."""
        message, command = accepted
        data = await conceal_all(self._context.personal, command, message.id)
        return Accepted(msgspec.structs.replace(message, data=data), command)

    async def append(self, message: Message) -> None:
        """Returns once the log has confirmed the message. Raises Unavailable, or Invalid for a key that was reused.

        NotYet where write heads live and none of them can read it, because they run another build.
        """
        if why := await self._announced.misfit(message.type, message.data):
            raise NotYet(
                f"no write head of {self._context.service.name} that runs now can read this {message.type} ({why}), as "
                "another build is coming or going; nothing was kept; send it again"
            )
        fingerprint = fingerprint_of(message)
        if fingerprint is None:
            await self._submit(message)
            return
        with await self._reuse.claimed(message.id, fingerprint):
            await self._submit(message)

    async def refusal(self, misfit: Misfit) -> Invalid | NotYet:
        """How a body is refused that is no command to this code: for good, or until the build is here that reads it."""
        if await self._announced.was_read_elsewhere(misfit.type, misfit.data):
            return NotYet(
                f"this process can't read this {misfit.type} ({misfit.field}: {misfit.detail}), but a write head can, "
                "as another build is coming or going; nothing was kept; send it again"
            )
        return misfit

    async def execute(self, message: Message, request: Request | None = None) -> Outcome:
        """Handle the message now, in one transaction with those that came at the same time. Raises Unavailable."""
        self._check_room(len(self._directs))
        return await self._directs.submit(Task(message, request=request))

    async def drain(self) -> None:
        """Wait until everything taken is answered."""
        await self._appends.drain()
        await self._directs.drain()
        await self._direct.drain()

    async def close(self) -> None:
        """Stop the handlers that still run."""
        await self._direct.close()

    def _submit(self, message: Message) -> asyncio.Future[None]:
        self._check_room(len(self._appends))
        return self._appends.submit(message)

    async def _append(self, messages: list[Message]) -> Sequence[BaseException | None]:
        """Append messages together; one by one where one is more than the log takes, which is told to its sender."""
        if self._seal.is_keyed:
            messages = [msgspec.structs.replace(each, chain=self._seal.of_command(each)) for each in messages]
        try:
            await self._context.log.append(self._context.commands_topic, messages)
        except Unfit as error:
            if len(messages) > 1:
                return [await self._appended_alone(message) for message in messages]
            raise Invalid(f"a command of {len(messages[0].data):,} bytes: {error}", status=413) from error
        for message in messages:
            self._context.metrics.accepted(self._context.service.name, message.type)
        return [None] * len(messages)

    async def _appended_alone(self, message: Message) -> BaseException | None:
        try:
            return (await self._append([message]))[0]
        except ChimeraError as error:
            return error

    def _check_room(self, waiting: int) -> None:
        if waiting >= self._context.limits.waiting_commands:
            raise Unavailable(f"{waiting} commands wait for {self._context.service.name}")


def _new_traceparent(clock: Clock) -> str:
    random = clock.random_bytes(24).hex()
    return f"00-{random[:32]}-{random[32:]}-01"
