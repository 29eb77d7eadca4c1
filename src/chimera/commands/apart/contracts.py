"""The contracts of the code: which commands and events it can read, as data and as digests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from chimera.folds import upgrades_of
from chimera.forms import cached, contract_of_model, is_model, names_of_fields, old_form_of
from chimera.messages import AnyEvent, Evolving
from chimera.service import Service
from chimera.share.digests import digest_of
from chimera.versions import version_of

Schema = Mapping[str, Any]
"""A JSON Schema as msgspec writes it, its definitions under `$defs`."""


class CanRead(msgspec.Struct, frozen=True):
    """All that a build can read: the schema of each command by its type on the wire, and of each event by its reader.

    A reader of events is `<reaction>/<type>` or `=<entity>/<type>` among `events`, `<view>/<type>` among `folded`. What
    is borrowed is `<owner>/<share>` among `copied`; builds of before say nothing of it.
    """

    commands: dict[str, Schema]
    events: dict[str, Schema]
    folded: dict[str, Schema]
    copied: dict[str, Schema] = {}

    @property
    def code(self) -> str:
        """The digest by which handlers know it (see `code_of`)."""
        return digest_of(msgspec.json.encode([self.commands, self.events], order="sorted"))


@cache
def can_read(service: Service) -> CanRead:
    """All that the service's code can read."""
    return CanRead(
        {
            type_: schema
            for handler in service.handlers.values()
            for type_, schema in schemas_of(handler.command, service.name).items()
        },
        {
            f"{reader}/{type_}": schema
            for reader, events in [*_reactions(service), *_entities(service)]
            for event in events
            for type_, schema in schemas_of(event, event.__source__).items()
        },
        {
            f"{view.name}/{type_}": schema
            for view in service.views.values()
            for event in view.steps
            for type_, schema in schemas_of(event, event.__source__).items()
        },
        {f"{each.owner}/{each.share}": schema_of(each.document) for each in service.borrows.values()},
    )


def _reactions(service: Service) -> Iterator[tuple[str, Iterable[type[AnyEvent]]]]:
    for reaction in service.reactions.values():
        yield reaction.name, reaction.events


def _entities(service: Service) -> Iterator[tuple[str, Iterable[type[AnyEvent]]]]:
    """Those that are folded from events of several versions: a command that needs one is left to code that reads it."""
    for entity, fold in service.folds.items():
        if any(event.__version__ > 1 for event in fold.steps):
            yield f"={entity.__name__}", fold.steps


def schemas_of(message: type[Evolving], service: str) -> dict[str, Schema]:
    """The schema of each version of a message by its type: of the older ones as far as their upgrade tells."""
    return {
        type_: schema_of(message) if version == message.__version__ else _old_schema(message, version)
        for type_ in message.types_in(service)
        for version in [version_of(type_)]
    }


def _old_schema(message: type[Evolving], version: int) -> Schema:
    upgrade = message.__upgrades__.get(version)
    form = dict if upgrade is None else old_form_of(upgrade)
    schema = {} if form is dict else schema_of(form)
    return {**schema, UPGRADED: digest_of("\n".join(upgrades_of(message)).encode())}


UPGRADED = "x-upgraded"
"""In the schema of an older version, the digest of what makes the newest one of it."""


@cache
def code_of(service: Service) -> str:
    """The digest of all that the service's handlers can read; another one may read what this could not."""
    return can_read(service).code


@cached
def schema_of(struct: type) -> Schema:
    """The schema of a message; of one whose fields have types of their own, only what can be told of them."""
    if is_model(struct):
        return contract_of_model(struct)
    try:
        return msgspec.json.schema(struct, schema_hook=lambda type_: {"title": f"{type_.__module__}.{type_.__name__}"})
    except (TypeError, NotImplementedError):
        return {"title": struct.__name__, "fields": list(names_of_fields(struct))}
