"""The contracts of the code: which commands and events it can read, as data and as digests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from chimera.core import names
from chimera.forms import cached, contract_of_model, is_model, names_of_fields
from chimera.service import Service
from chimera.share.digests import digest_of

Schema = Mapping[str, Any]
"""A JSON Schema as msgspec writes it, its definitions under `$defs`."""


class CanRead(msgspec.Struct, frozen=True):
    """All that a build can read: the schema of each command by its type on the wire, and of each event by its reader.

    A reader of events is `<reaction>/<type>` among `events`, `<view>/<type>` among `folded`. What is borrowed is
    `<owner>/<share>` among `copied`; builds of before say nothing of it.
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
            names.command_type(service.name, name): schema_of(handler.command)
            for handler in service.handlers.values()
            for name in handler.command.__names__
        },
        {
            f"{reaction.name}/{type_}": schema_of(event)
            for reaction in service.reactions.values()
            for event in reaction.events
            for type_ in event.wire_types()
        },
        {
            f"{view.name}/{type_}": schema_of(event)
            for view in service.views.values()
            for event in view.steps
            for type_ in event.wire_types()
        },
        {f"{each.owner}/{each.share}": schema_of(each.document) for each in service.borrows.values()},
    )


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
