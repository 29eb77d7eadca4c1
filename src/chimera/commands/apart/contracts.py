"""The contracts of the code: which commands and events it can read, as data and as a digest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from chimera.core import names
from chimera.messages import Command, Event
from chimera.service import Service
from chimera.share.digests import digest_of

Schema = Mapping[str, Any]
"""A JSON Schema as msgspec writes it, its definitions under `$defs`."""


@cache
def commands_read(service: Service) -> Mapping[str, Schema]:
    """The schema of each command that the service's code handles, by its type on the wire."""
    return {
        names.command_type(service.name, name): schema_of(handler.command)
        for handler in service.handlers.values()
        for name in handler.command.__names__
    }


@cache
def code_of(service: Service) -> str:
    """The digest of all that the service's code can read; another one may read what this could not."""
    events = {
        f"{reaction.name}/{type_}": schema_of(event)
        for reaction in service.reactions.values()
        for event in reaction.events
        for type_ in event.wire_types()
    }
    return digest_of(msgspec.json.encode([commands_read(service), events], order="sorted"))


def schema_of(message: type[Command | Event]) -> Schema:
    """The schema of a message; of one whose fields have types of their own, only what can be told of them."""
    try:
        return msgspec.json.schema(message, schema_hook=lambda type_: {"title": f"{type_.__module__}.{type_.__name__}"})
    except (TypeError, NotImplementedError):
        return {"title": message.__name__, "fields": list(message.__struct_fields__)}
