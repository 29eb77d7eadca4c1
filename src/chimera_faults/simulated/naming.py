"""Mistakes about names: what is stored under a name must not follow what Python calls it."""

from __future__ import annotations

from typing import Any

from chimera.commands import react
from chimera.commands.handlers import reaction_executor
from chimera_faults.patching import Mistake, Patching


def _named_after_its_function(at: Patching) -> None:
    def executor(context: Any, reaction: Any, source: str, *more: Any) -> Any:
        name = reaction.function.__name__
        if name == reaction.name or not at.wrong():
            return reaction_executor(context, reaction, source, *more)
        return reaction_executor(context, reaction._replace(name=name), source, *more)

    at.replace(react, "reaction_executor", executor)


NAMING = {
    "named-after-its-function": Mistake(
        "a reaction keeps its checkpoints under the name of its function", "", _named_after_its_function
    ),
}
