"""Every route of a service's own, with the rule declared beside it; what is wrong there is told with its place.

From its first rule on, a service has no route without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from chimera.caller import Caller, Request
from chimera.core.context import Reach
from chimera.errors import DeclarationError
from chimera.forms import names_of_fields
from chimera.messages import AnyCommand, type_at
from chimera.parts import Asked, Query, Uploading
from chimera.reader import Reader
from chimera.rules import AllOf, AnyOf, Anyone, OfField, Rule
from chimera.service import Service
from chimera.signature import type_name

TYPED = 'allow=owner_of("…"), role("…"), somebody, or anyone where it is open to all'


TELLS = "@service.authenticate, or [identity] to the settings"


class Passage(NamedTuple):
    """A route, such as `POST /orders`, and who may take it. `at`: where that is declared.

    `fields`: what a rule may name of what is asked for; `command`, where that is one.
    """

    route: str
    at: str
    allow: Rule | None
    fields: Sequence[str]
    command: type[AnyCommand] | None = None


def passages(service: Service) -> Iterator[Passage]:
    """The routes of a service's own: those of commands, uploads, queries, views and lists."""
    for handler in service.handlers.values():
        if handler.route or handler.allow is not None:
            route = handler.route or handler.command.__names__[0]
            fields = names_of_fields(handler.command)
            yield Passage(route, handler.signature.at, handler.allow, fields, handler.command)
    others: list[Uploading | Query] = [*service.uploads.values(), *service.queries.values()]
    for declared in others:
        fields = tuple(each.name for each in declared.signature.plain)
        yield Passage(declared.route, declared.signature.at, declared.allow, fields)
    for view in service.views.values():
        if view.path:
            yield Passage(f"GET {view.path}", f"{view.declared_at}: view {view.name}", view.allow, (view.key,))
        for each in view.lists.values():
            if each.path:
                fields = tuple(field.name for field in each.where)
                yield Passage(f"GET {each.path}", f"{each.declared_at}: list {each.name}", each.allow, fields)


def has_rules(service: Service) -> bool:
    """True from the first rule on."""
    return any(each.allow is not None for each in passages(service))


def who_may(services: Iterable[Service], reach: Reach) -> str:
    """What is said at the start of services that are open to all, in a line; empty where none is."""
    if not reach.rules:
        return "anyone, everything: no rule is asked (--open)"
    opened = [service.name for service in services if any(passages(service)) and not has_rules(service)]
    return f"anyone, everything of {', '.join(opened)}; no rule is declared there (allow=)" if opened else ""


def check_rules(service: Service, *, knows: bool) -> None:
    """Raises DeclarationError for a route without a rule beside others that have one, and for a rule that can't be.

    `knows`: the settings tell who asks, where the service does not.
    """
    knows = knows or service.authenticator is not None
    every = list(passages(service))
    ruled = next((each for each in every if each.allow is not None), None)
    if ruled is None:
        return
    for each in every:
        if each.allow is None:
            raise DeclarationError(
                f"{each.at}: nobody may {each.route}: it has no rule, and {ruled.route} has one; add {TYPED}"
            )
        for part in each.allow.inner():
            _check_part(service, each, part, knows=knows)


def _check_part(service: Service, passage: Passage, part: Rule, *, knows: bool) -> None:
    if isinstance(part, OfField):
        _check_field(passage, part.field, str(part))
    if isinstance(part, Asked):
        for plain in part.signature.plain:
            _check_field(passage, plain.name, f"the rule {part}")
        taken = part.command
        if taken is not None and not (passage.command and issubclass(passage.command, taken)):
            has = type_name(passage.command) if passage.command else "no command"
            raise DeclarationError(f"{part.signature.at} takes {type_name(taken)}; {passage.route} has {has}")
        own: tuple[type, ...] = (Reader, Request, *((Caller,) if knows else ()), *((taken,) if taken else ()))
        service.check_supplied(part.signature, own)
    elif not isinstance(part, Anyone | AnyOf | AllOf) and not knows:
        raise DeclarationError(f"{passage.at}: {part} asks who it is, and nobody tells; add: {TELLS}")


def _check_field(passage: Passage, name: str, what: str) -> None:
    """Raises DeclarationError where what is asked for has no such field."""
    if passage.command is not None and "." in name and name.partition(".")[0] in passage.fields:
        type_at(passage.command, name)
        return
    if name not in passage.fields:
        owner = type_name(passage.command) if passage.command else passage.route
        known = ", ".join(passage.fields) or "nothing that a rule could name"
        raise DeclarationError(f"{passage.at}: {what}: {owner} has no {name!r}; it has: {known}")
