"""The gate: asks the rule of a route before its endpoint runs, and again once a command is decoded.

What needs only the caller and the path is decided before any of the body is read, all else before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
from msgspec.inspect import StrType, type_info

from chimera.caller import AskedBy, Caller, Request
from chimera.core.context import Context
from chimera.errors import Rejected
from chimera.forms import fields_of
from chimera.messages import AnyCommand
from chimera.parts import Asked, Handler, path_parameters
from chimera.ports import Session
from chimera.reader import Reader
from chimera.rules import Anyone, OfField, Rule, Values
from chimera.web.permission.asking import Asking
from chimera.web.permission.describing import describing
from chimera.web.permission.groups import is_local
from chimera.web.snapshots import Snapshots
from chimera.web.wire.http import Call
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
        check, endpoint, is_open = Check(self, allow), route.endpoint, not self._context.reach.rules

        async def guarded(call: Call) -> None:
            if is_open and is_local(call):
                await endpoint(call)
                return
            asked = call.asked = await self._asking(call)
            found = check.decide(asked.caller, _unknown, NOTHING)
            if found is None:
                values = values_of(call) if check.needs_values else _unknown
                found = await check.ask(asked, values, None)
            if not found:
                raise self.refused(asked)
            await endpoint(call)

        return describing(route._replace(endpoint=guarded), str(allow))

    def of_command(self, route: Route, handler: Handler, *, in_path: bool = True) -> Route:
        """The route of a command: what its path and her who asks don't settle is left for `settle`.

        `in_path`: what is in the path is in the command.
        """
        allow = handler.allow
        if allow is None or isinstance(allow, Anyone):
            return route
        check, endpoint, is_open = Check(self, allow), route.endpoint, not self._context.reach.rules
        early = _told_by_path(handler.command) & {*path_parameters(route.template)} if in_path else frozenset()

        async def guarded(call: Call) -> None:
            if is_open and is_local(call):
                await endpoint(call)
                return
            asked = call.asked = await self._asking(call)
            found = check.decide(asked.caller, _of_path(call, early) if early else _unknown, NOTHING)
            if found is None and not check.needs_values:
                found = await check.ask(asked, _unknown, None)
            if found is None:
                call.pending = check
            elif not found:
                raise self.refused(asked)
            await endpoint(call)

        return describing(route._replace(endpoint=guarded), str(allow))

    async def settle(self, pending: Check, asked: AskedBy, command: AnyCommand) -> None:
        """Ask what was left open, now that the command is known. Raises Unauthenticated or Rejected (403)."""
        values = _of_command(command)
        found = pending.decide(asked.caller, values, NOTHING)
        if found is None:
            found = await pending.ask(asked, values, command)
        if not found:
            raise self.refused(asked)

    def of_upload(self, route: Route, allow: Rule | None, values_of: ValuesOf, handler: Handler) -> Route:
        """The route of an upload: its own rule, and that of its command as far as that can be asked before."""
        return self.of_address(self.of_command(route, handler, in_path=False), allow, values_of)

    def refused(self, asked: AskedBy) -> Rejected:
        """What is answered to whoever may not."""
        if asked.caller is None:
            return self._asking.unauthenticated(asked.request)
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


class Check:
    """A rule, ready to be asked. `needs_values`: it looks at what is asked for, and not only at her who asks.

    `decide` says yes, no, or None for what can't be said without its functions.
    """

    def __init__(self, gate: Gate, allow: Rule) -> None:
        self._gate = gate
        self._functions = [each for each in allow.inner() if isinstance(each, Asked)]
        self.decide = allow.decide()
        self.needs_values = any(
            isinstance(each, OfField) or (isinstance(each, Asked) and each.waits) for each in allow.inner()
        )

    async def ask(self, asked: AskedBy, values: Values, command: AnyCommand | None) -> bool | None:
        """What it says with its functions, of which those are called that it still needs."""
        found = self.decide(asked.caller, values, NOTHING)
        told: dict[Rule, bool] = {}
        for function in self._functions:
            if found is not None:
                break
            told[function] = await self._gate.ask(function, asked, values, command)
            found = self.decide(asked.caller, values, told)
        return found


NOTHING: Mapping[Rule, bool] = {}


def _told_by_path(command: type[AnyCommand]) -> frozenset[str]:
    """The fields whose text in a path is what the command will have; all others may be read as something else."""
    if not issubclass(command, msgspec.Struct) or hasattr(command, "__post_init__"):
        return frozenset()
    return frozenset(each.name for each in fields_of(command) if isinstance(type_info(each.type), StrType))


def _of_path(call: Call, early: Collection[str]) -> Values:
    path = call.path
    return lambda name: path[name] if name in early and name in path else msgspec.UNSET


def _of_command(command: AnyCommand) -> Values:
    """The fields of a command; one that was not given stays unknown, and so is nobody's."""
    return partial(_field, command)


def _field(command: AnyCommand, name: str) -> object:
    return attrgetter(name)(command) if "." in name else getattr(command, name)
