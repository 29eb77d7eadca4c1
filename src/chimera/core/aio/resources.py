"""The resources of a service in one process, and its functions, called with what they need."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from chimera.caller import NOBODY, AskedBy, Caller, Request
from chimera.errors import ChimeraError
from chimera.service import Service
from chimera.signature import Needed, Signature
from chimera.supplies import Provided, Work

logger = logging.getLogger("chimera")

Around = Callable[[Work, Callable[[], Awaitable[Any]]], Awaitable[Any]]
NOTHING: Mapping[Any, Any] = {}
Made = dict[Any, Any]
"""The resources that were made for one call, by type."""


class NoCaller(ChimeraError):  # noqa: N818 - what is missing
    """A function takes the Caller, and nobody knows who asks."""


class Resources:
    """What a service's functions need: made once in this process, or for each call, and closed in the reverse order."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: dict[Any, asyncio.Future[Any]] = {}
        self._stack = AsyncExitStack()
        self._is_open = False
        self._own: dict[Any, Provided] = {}

    def offer(self, type_: type, factory: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        """What Chimera itself makes, once in this process, for whoever needs it and provides nothing else."""
        self._own[type_] = Provided(type_, factory, "process", Signature(factory, (), (), (), {}))

    async def open(self) -> None:
        """Make those that are made once, and run what is to run at the start. Raises what they raise."""
        for provided in self._service.provided.values():
            if provided.per == "process":
                await self.get(provided)
        for signature in self._service.starting:
            await self.calling(signature)()
        self._is_open = True

    async def close(self) -> None:
        """Run what is to run at the stop, and close what was made once."""
        if self._is_open:
            self._is_open = False
            for signature in self._service.stopping:
                await self._stop(signature)
        self._made.clear()
        await self._stack.aclose()

    async def get(self, provided: Provided) -> Any:
        """The resource that is made once, made now if it is not yet."""
        made = self._made.get(provided.type)
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            made = asyncio.ensure_future(self._make(provided, NOBODY, self._stack, {}))
            self._made[provided.type] = made
        return await asyncio.shield(made)

    async def supply(self, need: Needed, asked: AskedBy, stack: AsyncExitStack, made: Made) -> Any:
        """The value of a parameter that is not at hand; what is made for it is closed by the stack."""
        if need.type in (Caller, Request):
            return at_hand(need, NOTHING, asked)
        provided = self._service.provided.get(need.type) or self._own[need.type]
        if provided.per == "process":
            return await self.get(provided)
        if need.type not in made:
            made[need.type] = await self._make(provided, asked, stack, made)
        return made[need.type]

    def calling(self, signature: Signature, *own: Any) -> Calling:
        """A function of the service, to be called by somebody who has values of the types `own`."""
        return Calling(self, signature, own)

    def around(self) -> Around | None:
        """Runs what surrounds a work, and the work inside; None where nothing does."""
        callings = [self.calling(signature) for signature in self._service.surrounding]
        if not callings:
            return None

        async def run(work: Work, go_on: Callable[[], Awaitable[Any]]) -> Any:
            for calling in reversed(callings):
                go_on = partial(calling, work, go_on, asked=AskedBy(work.caller))
            return await go_on()

        return run

    async def _stop(self, signature: Signature) -> None:
        try:
            await self.calling(signature)()
        except Exception:
            logger.exception("%s failed; the process goes on to stop", signature.at)

    async def _make(self, provided: Provided, asked: AskedBy, stack: AsyncExitStack, made: Made) -> Any:
        needs = provided.signature.needs
        arguments = {need.name: await self.supply(need, asked, stack, made) for need in needs}
        factory: Callable[..., Any] = provided.factory
        if inspect.isasyncgenfunction(factory):
            factory = asynccontextmanager(factory)
        found = factory(**arguments)
        if inspect.isawaitable(found):
            found = await found
        if hasattr(type(found), "__aenter__") and hasattr(type(found), "__aexit__"):
            found = await stack.enter_async_context(found)
        return found


class Calling:
    """A function of the service, called with what it needs.

    `is_bare`: beside what it is handed first it takes one thing, which its caller has. `needs_resources`: something has
    to be made for it, or may have to be.
    """

    def __init__(self, resources: Resources, signature: Signature, own: tuple[Any, ...]) -> None:
        self._resources = resources
        self._needs = signature.needs
        self.function: Callable[..., Awaitable[Any]] = signature.function
        self.is_bare = not signature.plain and [need.type for need in signature.needs] == [*own]
        self.needs_resources = any(need.type not in (*own, Caller, Request) for need in signature.needs)

    async def __call__(
        self,
        *first: object,
        own: Mapping[Any, Any] = NOTHING,
        asked: AskedBy = NOBODY,
        plain: Mapping[str, Any] = NOTHING,
    ) -> Any:
        """What the function returns. `own` are values by type, `plain` arguments by name. Raises NoCaller."""
        arguments = {**plain}
        if not self.needs_resources:
            for need in self._needs:
                arguments[need.name] = at_hand(need, own, asked)
            return await self.function(*first, **arguments)
        made: Made = {}
        async with AsyncExitStack() as stack:
            for need in self._needs:
                if need.type in own:
                    arguments[need.name] = own[need.type]
                else:
                    arguments[need.name] = await self._resources.supply(need, asked, stack, made)
            return await self.function(*first, **arguments)


def at_hand(need: Needed, own: Mapping[Any, Any], asked: AskedBy) -> Any:
    """The value of a parameter that nobody has to make. Raises NoCaller where it must be known who asks."""
    if need.type is Caller:
        if asked.caller is None and not need.optional:
            raise NoCaller(f"its parameter {need.name!r} takes the Caller, and nobody knows who asked")
        return asked.caller
    return asked.request if need.type is Request else own[need.type]
