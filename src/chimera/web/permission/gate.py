"""The gate: asks the rule of a route before its endpoint runs, and again once a command is decoded.

What needs only the caller and the path is decided before any of the body is read, all else before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
from msgspec.inspect import StrType, type_info

from chimera.caller import AskedBy, Caller, Request
from chimera.core.context import Context
from chimera.errors import Rejected
from chimera.forms import fields_of
from chimera.messages import AnyCommand
from chimera.parts import Asked, Handler
from chimera.ports import Session
from chimera.reader import Reader
from chimera.rules import Anyone, Rule, Values
from chimera.web.permission.asking import Asking
from chimera.web.replying import Unauthenticated
from chimera.web.snapshots import Snapshots
from chimera.web.wire.http import Call
from chimera.web.wire.openapi import Operation
from chimera.web.wire.routing import Route

ValuesOf: TypeAlias = Callable[[Call], Values]
"""Reads the fields of what is asked for out of an address. Raises Invalid."""
ReaderOf: TypeAlias = Callable[[Session], Reader]


def _unknown(name: str) -> object:
    """Nothing is known of what is asked for."""
    return msgspec.UNSET


class Gate:
    """Asks the rules of a service. `reader_of` makes a Reader of a session, for rules that need one."""

    def __init__(self, context: Context, asking: Asking, snapshots: Snapshots, reader_of: ReaderOf) -> None:
        self._context = context
        self._asking = asking
        self._snapshots = snapshots
        self._reader_of = reader_of

    def of_address(self, route: Route, allow: Rule | None, values_of: ValuesOf) -> Route:
        """A route whose address says all that its rule may need; as it is, where anyone may."""
        if allow is None or isinstance(allow, Anyone):
            return route
        check, endpoint = Check(self, allow), route.endpoint

        async def guarded(call: Call) -> None:
            asked = call.asked = await self._asking(call)
            found = await check(asked)
            if found is None:
                found = await check(asked, values_of(call), is_whole=True)
            if not found:
                raise self.refused(asked)
            await endpoint(call)

        return _described(route._replace(endpoint=guarded), allow)

    def of_command(self, route: Route, handler: Handler, *, in_path: bool = True) -> Route:
        """The route of a command: what its path and her who asks don't settle is left for `settle`.

        `in_path`: what is in the path is in the command.
        """
        allow = handler.allow
        if allow is None or isinstance(allow, Anyone):
            return route
        check, endpoint, early = Check(self, allow), route.endpoint, _told_by_path(handler.command) if in_path else ()

        async def guarded(call: Call) -> None:
            asked = call.asked = await self._asking(call)
            found = await check(asked, _of_path(call, early))
            if found is False:
                raise self.refused(asked)
            if found is None:
                call.pending = check
            await endpoint(call)

        return _described(route._replace(endpoint=guarded), allow)

    async def settle(self, call: Call, command: AnyCommand) -> None:
        """Ask what was left open, now that the command is known. Raises Unauthenticated or Rejected (403)."""
        asked = await self._asking(call)
        if call.pending is None or not await call.pending(asked, _of_command(command), is_whole=True, command=command):
            raise self.refused(asked)

    def of_upload(self, route: Route, allow: Rule | None, values_of: ValuesOf, handler: Handler) -> Route:
        """The route of an upload: its own rule, and that of its command as far as that can be asked before."""
        return self.of_address(self.of_command(route, handler, in_path=False), allow, values_of)

    def refused(self, asked: AskedBy) -> Rejected:
        """What is answered to whoever may not."""
        if asked.caller is None:
            return Unauthenticated("unauthenticated", "it is not known who asks; show who you are", self._challenge)
        return Rejected("forbidden", "you may not do this", status=403)

    async def ask(self, function: Asked, asked: AskedBy, values: Values, command: AnyCommand | None) -> bool:
        """What a function of the author's own says."""
        signature, own_types = function.signature, (Reader, Request)
        if asked.caller is None and any(need.type is Caller and not need.optional for need in signature.needs):
            return False
        own: dict[Any, Any] = {Request: asked.request} | ({function.command: command} if function.command else {})
        plain = {each.name: values(each.name) for each in signature.plain}
        calling = self._context.resources.calling(signature, *own_types, *own)
        if not signature.needs_any((Reader,)):
            return bool(await calling(own=own, asked=asked, plain=plain))

        async def look(session: Session) -> object:
            return await calling(own={**own, Reader: self._reader_of(session)}, asked=asked, plain=plain)

        return bool(await self._snapshots.look(look))

    @property
    def _challenge(self) -> str:
        authenticator = self._context.service.authenticator
        return authenticator.challenge if authenticator else "Bearer"


class Check:
    """A rule, ready to be asked: yes, no, or None for what can't be said yet."""

    def __init__(self, gate: Gate, allow: Rule) -> None:
        self._gate = gate
        self._decide = allow.decide()
        self._functions = [each for each in allow.inner() if isinstance(each, Asked)]

    async def __call__(
        self, asked: AskedBy, values: Values = _unknown, *, is_whole: bool = False, command: AnyCommand | None = None
    ) -> bool | None:
        """`is_whole`: `values` knows every field, and the command is known where there is one."""
        found = self._decide(asked.caller, values, NOTHING)
        if found is not None or not self._functions:
            return found
        told: dict[Rule, bool] = {}
        for function in self._functions:
            if function.waits and not is_whole:
                continue
            told[function] = await self._gate.ask(function, asked, values, command)
            if (found := self._decide(asked.caller, values, told)) is not None:
                break
        return found


NOTHING: Mapping[Rule, bool] = {}


def _told_by_path(command: type[AnyCommand]) -> Collection[str]:
    """The fields whose text in a path is what the command will have; all others may be read as something else."""
    if not issubclass(command, msgspec.Struct) or hasattr(command, "__post_init__"):
        return ()
    return frozenset(each.name for each in fields_of(command) if isinstance(type_info(each.type), StrType))


def _of_path(call: Call, early: Collection[str]) -> Values:
    path = call.path
    return lambda name: path[name] if name in early and name in path else msgspec.UNSET


def _of_command(command: AnyCommand) -> Values:
    """The fields of a command; an optional one that was not given is nobody's."""

    def value(name: str) -> object:
        found = attrgetter(name)(command)
        return None if found is msgspec.UNSET else found

    return value


def _described(route: Route, allow: Rule) -> Route:
    """The route, whose description says who may take it."""
    describe = route.describe
    if describe is None:
        return route

    def described() -> Operation:
        operation = describe()
        refusals = {str(status): {"$ref": f"#/components/responses/{status}"} for status in (401, 403)}
        responses = {**refusals, **operation["responses"]}
        return {**operation, "responses": responses, "x-chimera-allow": str(allow)}

    return route._replace(describe=described)
