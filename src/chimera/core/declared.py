"""The names that a service declares: those under which something of it is stored or sent, and where each stands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from types import ModuleType
from typing import Literal, NamedTuple

from chimera.core.names import forgotten_type, share_type
from chimera.entities import Entity, table_name
from chimera.errors import DeclarationError, class_at
from chimera.forms import readers_of
from chimera.messages import AnyEvent
from chimera.service import Service
from chimera.signature import located
from chimera.unique import reserved_type

Kind = Literal["events", "commands", "views", "reactions", "tables", "shares"]
KINDS: tuple[Kind, ...] = ("events", "commands", "views", "reactions", "tables", "shares")


class DeclaredName(NamedTuple):
    """A name, and the class or function that has it, or the place of it. `python`: what it is called in the code.

    `also`: what else is read as it; `detail`: of a command, its route.
    """

    kind: Kind
    name: str
    python: str
    at: type | Callable[..., object] | str
    also: tuple[str, ...] = ()
    detail: str = ""

    @property
    def where(self) -> str:
        """The file and line of its declaration; looked for only when it is told, for that takes a while."""
        if isinstance(self.at, str):
            return self.at
        return class_at(self.at) if isinstance(self.at, type) else located(self.at)


def declared_names(service: Service) -> list[DeclaredName]:
    """Every name that a service declares. Raises DeclarationError where two classes have one name, or can't be read."""
    for event in _read_events(service):
        readers_of(event, event.__source__)
    for handler in service.handlers.values():
        readers_of(handler.command, service.name)
    return [
        *(_of_class("events", event, event.__names__) for event in own_events(service)),
        *(
            DeclaredName(
                "commands",
                name,
                handler.command.__name__,
                handler.function,
                handler.command.__names__[1:],
                handler.route or "",
            )
            for name, handler in service.handlers.items()
        ),
        *(
            DeclaredName("views", view.name, view.document.__name__, view.declared_at, view.also)
            for view in service.views.values()
        ),
        *(
            DeclaredName("reactions", each.name, each.function.__name__, each.function, each.also)
            for each in service.reactions.values()
        ),
        *_tables(service),
        *(
            DeclaredName("shares", share.name, share.name, share.function, share.also)
            for share in service.shares.values()
        ),
    ]


def own_events(service: Service) -> list[type[AnyEvent]]:
    """The classes of a service's own events: those that it names, and all others of its source in this process.

    A class in a module of another service, which may have a class of its own for what it consumes, is none of them.
    Raises DeclarationError where two that the service itself names are read from one type.
    """
    named = [*_named_events(service)]
    _check_apart(service, named)
    others = [event for event in _every_event(AnyEvent) if event not in named and not _is_of_another(service, event)]
    return [*named, *(event for event in others if event.__source__ == service.name)]


def known_types(service: Service) -> set[str]:
    """The types in a service's journal that somebody may read."""
    return {type_ for event in own_events(service) for type_ in event.wire_types()}


def is_of_chimera(service: Service, type_: str) -> bool:
    """True for the types that Chimera emits by itself: of a share's changes, of what is reserved, of the forgotten."""
    own = (reserved_type(service.name), forgotten_type(service.name))
    return type_.startswith(share_type(service.name, "")) or type_ in own


def digest_of_names(declared: Iterable[DeclaredName]) -> str:
    """The digest of all names that are declared together: 16 hexadecimal digits."""
    lines = sorted({f"{each.kind} {' '.join((each.name, *sorted(each.also)))}" for each in declared})
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def _of_class(kind: Kind, class_: type, names: Sequence[str]) -> DeclaredName:
    return DeclaredName(kind, names[0], class_.__name__, class_, tuple(names[1:]))


def _tables(service: Service) -> list[DeclaredName]:
    classes: dict[str, type[Entity]] = {}
    for entity in service.entities:
        name = table_name(entity)
        if (other := classes.setdefault(name, entity)) is not entity:
            raise DeclarationError(
                f"{class_at(entity)}: {entity.__name__} has {other.__name__}'s table {name!r} ({class_at(other)}); "
                f'give it its own: class {entity.__name__}(Entity, key="…", table="…")'
            )
    return [_of_class("tables", entity, (name, *entity.__names__[1:])) for name, entity in classes.items()]


def _every_event(of: type[AnyEvent]) -> Iterator[type[AnyEvent]]:
    for event in of.__subclasses__():
        yield event
        yield from _every_event(event)


def _read_events(service: Service) -> list[type[AnyEvent]]:
    """Those that are folded, reacted to, or change a share."""
    used = [event for fold in (*service.folds.values(), *service.views.values()) for event in fold.steps]
    used += [event for reaction in service.reactions.values() for event in reaction.events]
    return used + [event for share in service.shares.values() for event in share.changed_by]


def _named_events(service: Service) -> Iterator[type[AnyEvent]]:
    """Those that the service reads, and those that the modules of its functions name."""
    used = _read_events(service)
    for module in _modules(service):
        for value in (*vars(module).values(),):
            inner = vars(value).values() if isinstance(value, ModuleType) else (value,)
            used += [each for each in inner if isinstance(each, type) and issubclass(each, AnyEvent)]
    yield from dict.fromkeys(event for event in used if event.__source__ == service.name)


def _modules(service: Service) -> list[ModuleType]:
    functions: list[object] = [handler.function for handler in service.handlers.values()]
    functions += [reaction.function for reaction in service.reactions.values()]
    functions += [share.function for share in service.shares.values()]
    functions += [query.function for query in service.queries.values()]
    functions += [uploading.function for uploading in service.uploads.values()]
    names = dict.fromkeys(getattr(function, "__module__", "") for function in functions)
    return [sys.modules[name] for name in names if name in sys.modules]


def _check_apart(service: Service, events: Sequence[type[AnyEvent]]) -> None:
    classes: dict[str, type[AnyEvent]] = {}
    for event in events:
        for type_ in event.wire_types():
            if (other := classes.setdefault(type_, event)) is not event:
                raise DeclarationError(
                    f"{class_at(event)}: {event.__name__} is read from {type_}, as {other.__name__} is "
                    f"({class_at(other)}); give it a name of its own: class {event.__name__}(Event, "
                    f'source="{service.name}", key="…", name="{event.__name__}2")'
                )


def _is_of_another(service: Service, event: type[AnyEvent]) -> bool:
    module = sys.modules.get(event.__module__)
    services = {each.name for each in vars(module).values() if isinstance(each, Service)} if module else set()
    return bool(services) and service.name not in services
