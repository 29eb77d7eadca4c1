"""Deliberate mistakes: what one is, and how it is put into a process and taken out again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from chimera.ports import Store, ViewStore
from chimera.testing.broken import Wrong

BY_ITSELF = (TypeError, AttributeError, NameError)
"""What a mutant's code raises when what it changes has changed."""


class Patching:
    """Puts mistakes into this process, and takes them out again.

    `wrong` says whether the mistake is to be made now, and that it is; `failed` is told of one that fails by itself.
    """

    def __init__(self, wrong: Wrong, failed: Callable[[str], None]) -> None:
        self.wrong = wrong
        self._failed = failed
        self._were: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Have `function` in the place of an attribute, until `undo`."""
        self._were.append((owner, name, owner.__dict__[name]))
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def watched(*arguments: Any, **options: Any) -> Any:
                try:
                    return await function(*arguments, **options)
                except BY_ITSELF as error:
                    self._failed(f"{name}: {error!r}")
                    raise
        else:

            @wraps(function)
            def watched(*arguments: Any, **options: Any) -> Any:
                try:
                    return function(*arguments, **options)
                except BY_ITSELF as error:
                    self._failed(f"{name}: {error!r}")
                    raise

        setattr(owner, name, watched)

    def undo(self) -> None:
        """Everything as it was."""
        for owner, name, was in reversed(self._were):
            setattr(owner, name, was)
        self._were.clear()


class Mistake(NamedTuple):
    """A bug: what it is, the rig's scenario that catches it, and how it is made: a patch, or a wrapped engine."""

    what: str
    scenario: str
    patch: Callable[[Patching], None] | None = None
    store: Callable[[Store, Wrong], Store] | None = None
    views: Callable[[ViewStore, Wrong], ViewStore] | None = None
