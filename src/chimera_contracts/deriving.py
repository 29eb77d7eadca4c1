"""The contracts of services as their code has them now."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence

from msgspec import UNSET, Struct

from chimera.core.declared import own_events
from chimera.folds import Fold, Folder
from chimera.forms import Decodes, fields_of
from chimera.messages import AnyEvent
from chimera.parts import Handler, NewId, Reaction, Share
from chimera.service import Service
from chimera_contracts.model import (
    CommandPromise,
    Contracts,
    EventPromise,
    EventUse,
    ListPromise,
    Promised,
    ServiceContract,
    SharePromise,
    ShareUse,
    Uses,
    ViewPromise,
)
from chimera_contracts.reading import Read, read_by
from chimera_contracts.schemas import Schema, always_written, meaning_of

Classes = Mapping[str, type[AnyEvent]]
"""The classes that owners emit, by each name of each."""


def contracts_of(services: Iterable[Service]) -> Contracts:
    """The contracts of all services of a fleet. Raises DeclarationError where two events have one name."""
    services = list(services)
    classes = {name: event for service in services for name, event in emitted(service).items()}
    documents = {f"{service.name}/{name}": each for service in services for name, each in _documents(service).items()}
    return {
        service.name: ServiceContract(promises=_promises(service), uses=_uses(service, classes, documents))
        for service in services
    }


def emitted(service: Service) -> dict[str, type[AnyEvent]]:
    """The classes of a service's events by `service.Name`; of two that are read from one, its own modules' one."""
    found: dict[str, type[AnyEvent]] = {}
    for event in own_events(service):
        for name in event.__names__:
            found.setdefault(f"{service.name}.{name}", event)
    return found


def named(event: type[AnyEvent]) -> list[str]:
    """The names of an event with its owner's, whatever its versions."""
    return [f"{event.__source__}.{name}" for name in event.__names__]


def written_by(type_: type) -> Schema:
    """What a class writes: all of its fields, but those that it leaves out when they are as ever."""
    schema = meaning_of(type_)
    if getattr(getattr(type_, "__struct_config__", None), "omit_defaults", False):
        return schema
    whole = always_written(schema)
    if "properties" in whole:
        unset = {each.encode_name for each in fields_of(type_) if each.default is UNSET}
        whole = {**whole, "required": [name for name in whole["required"] if name not in unset]}
    return whole


def _promises(service: Service) -> Promised:
    events = {event.__names__[0]: event for event in emitted(service).values() if event.__key_fields__}
    return Promised(
        partitions=service.partitions,
        events={name: _event(event) for name, event in events.items()},
        commands={name: _command(handler) for name, handler in service.handlers.items()},
        shares={name: _share(share) for name, share in service.shares.items()},
        views=_views(service),
        forgotten={kind: sorted(names) for kind, names in sorted(service.forgot.items()) if names},
    )


def _event(event: type[AnyEvent]) -> EventPromise:
    version, upgrades = versions_of(event)
    return EventPromise(
        key=event.__key_fields__[0],
        names=list(event.__names__),
        schema=meaning_of(event),
        stored={str(version): written_by(event)},
        version=version,
        upgrades=upgrades,
    )


def versions_of(message: type) -> tuple[int, list[int]]:
    """The version of a message's class, and those before it that it upgrades."""
    return getattr(message, "__version__", 1), sorted(getattr(message, "__upgrades__", ()))


def _command(handler: Handler) -> CommandPromise:
    command, schema = handler.command, meaning_of(handler.command)
    made = {each.encode_name for each in fields_of(command) if NewId in typing.get_args(each.type)}
    if made and "required" in schema:
        schema = {**schema, "required": [name for name in schema["required"] if name not in made]}
    return CommandPromise(
        key=command.__key_fields__[0],
        names=list(command.__names__),
        schema=schema,
        route=handler.route or "",
        wrapped=handler.wrapped,
    )


def _share(share: Share) -> SharePromise:
    keys = typing.get_args(share.signature.hints.get(share.signature.first[0]))
    return SharePromise(
        keys=meaning_of(keys[0]) if keys else {},
        names=[share.name, *share.also],
        schema=meaning_of(share.document),
        stored=written_by(typing.cast("type", share.document)),
    )


def _views(service: Service) -> dict[str, ViewPromise]:
    found = {}
    for name, view in service.views.items():
        lists = {
            each.name: ListPromise(
                path=each.path,
                where=[field.name for field in each.where],
                order=[f"{'-' * field.descends}{field.name}" for field in each.order],
            )
            for each in view.lists.values()
            if each.path
        }
        if view.path or lists:
            found[name] = ViewPromise(schema=meaning_of(view.document), path=view.path or "", lists=lists)
    return found


def _documents(service: Service) -> dict[str, object]:
    return {name: share.document for share in service.shares.values() for name in (share.name, *share.also)}


def _uses(service: Service, classes: Classes, documents: Mapping[str, object]) -> Uses:
    events: dict[str, dict[str, EventUse]] = {}
    for reader, event, read in _reads(service):
        owners = next((classes[name] for name in named(event) if name in classes), event)
        own = None if owners is event and named(event)[0] in classes else event
        events.setdefault(named(owners)[0], {})[reader] = _event_use(event, own, read)
    shares = {}
    for borrow in service.borrows.values():
        place = f"{borrow.owner}/{borrow.share}"
        own_class = None if documents.get(place) is borrow.document else borrow.document
        known = sorted(each.encode_name for each in fields_of(borrow.document))
        shares[place] = ShareUse(fields=known if own_class else "all", own=meaning_of(own_class) if own_class else None)
    return Uses(events=events, shares=shares)


def _event_use(event: type[AnyEvent], own: type[AnyEvent] | None, read: Read) -> EventUse:
    version, upgrades = versions_of(event)
    fields = read.fields
    if fields is None and own:
        fields = frozenset(each.encode_name for each in fields_of(own))
    return EventUse(
        fields="all" if fields is None else sorted(fields),
        own=meaning_of(own) if own else None,
        names=list(own.__names__) if own else [],
        version=version if own else 1,
        upgrades=upgrades if own else [],
        strange=sorted(read.strange),
        perhaps=sorted(read.perhaps),
    )


def _reads(service: Service) -> Iterable[tuple[str, type[AnyEvent], Read]]:
    """Every reader of an event, in words, and what it reads of it."""
    for view in service.views.values():
        for event, (key_of, step) in view.steps.items():
            yield f"view {view.name}", event, read_by(step, 1, event).and_(read_by(key_of, 0, event))
    for document, fold in service.folds.items():
        for event, (key_of, step) in fold.steps.items():
            yield f"entity {document.__name__}", event, read_by(step, 1, event).and_(read_by(key_of, 0, event))
    for reaction in service.reactions.values():
        for event in reaction.events:
            yield f"reaction {reaction.name}", event, _of_reaction(reaction, event)
    for share in service.shares.values():
        for event, key_of in share.changed_by.items():
            yield f"share {share.name}", event, read_by(key_of, 0, event)


def events_read(service: Service) -> Iterable[tuple[str, type[AnyEvent]]]:
    """Every reader of an event, in words, and the class that it reads it as."""
    for view in service.views.values():
        yield from ((f"view {view.name}", event) for event in view.steps)
    for document, fold in service.folds.items():
        yield from ((f"entity {document.__name__}", event) for event in fold.steps)
    for reaction in service.reactions.values():
        yield from ((f"reaction {reaction.name}", event) for event in reaction.events)


def decoders_of(event: type[AnyEvent]) -> Mapping[str, Decodes[AnyEvent]]:
    """What reads an event, by each type that it may be stored as: just as every fold reads it."""
    fold = Fold(_Folded, "key")
    fold.steps[event] = (str, lambda document, event: document)
    return {type_: step.decoder for type_, step in Folder(fold).steps.items()}


class _Folded(Struct):
    """The document of a fold that only reads."""

    key: str


def _of_reaction(reaction: Reaction, event: type[AnyEvent]) -> Read:
    """What a reaction reads; of several events, that another one has a field which this one has not says nothing."""
    read = read_by(reaction.function, 0, event, many=reaction.batch)
    return read if len(reaction.events) == 1 else read.of_several


def readers_of(contracts: Contracts, types: Sequence[str]) -> list[tuple[str, str, EventUse]]:
    """Who reads an event of any of these names: service, reader, and what it reads."""
    return [
        (service, reader, use)
        for service, contract in sorted(contracts.items())
        for type_, readers in sorted(contract.uses.events.items())
        if type_ in types
        for reader, use in sorted(readers.items())
    ]
