"""The rules by which handlers run: how long each may take, and how it is tried again when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from chimera.core import names
from chimera.core.context import Context
from chimera.core.timing import Retry
from chimera.parts import AS_SET, Handling


class HandlerRule(NamedTuple):
    """How one handler runs: it counts as failed after `limit_s` seconds, and is then tried again as `retry` says."""

    limit_s: float
    retry: Retry


Rules = Callable[[str], HandlerRule]
"""The rule for a message of a type."""


def rules_of(context: Context, consumer: str) -> Rules:
    """The rules of a consumer's handlers: of each command by its type, or of a reaction."""
    service, others = context.service, rule_of(context, "", AS_SET)
    rules: Mapping[str, HandlerRule] = {}
    if consumer in (names.COMMANDS, names.DIRECT):
        rules = {
            type_: rule_of(context, handler.command.__names__[0], handler.handling)
            for handler in service.handlers.values()
            for type_ in handler.command.types_in(service.name)
        }
    for reaction in service.reactions.values():
        if consumer in [names.reaction_consumer(reaction.name, source) for source in reaction.sources]:
            others = rule_of(context, reaction.name, reaction.handling)
    return lambda type_: rules.get(type_, others)


def rule_of(context: Context, name: str, declared: Handling) -> HandlerRule:
    """The rule for a handler: as is set for it, else as it declares, else as is set for its service, else as ever."""
    wanted = context.handling.get(name, AS_SET).over(declared).over(context.handling.get("", AS_SET))
    changes = {key: value for key in ("tries", "first_s", "longest_s") if (value := getattr(wanted, key)) is not None}
    return HandlerRule(wanted.limit_s or context.timing.handler_s, context.retry._replace(**changes))
