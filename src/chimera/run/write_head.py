"""The write head: executes commands, relays the journal, projects events, keeps copies of what is borrowed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from chimera.borrow.copies import keep_copies
from chimera.commands.consume import CommandConsumer
from chimera.commands.react import keep_reacting
from chimera.core.aio.again import persist
from chimera.core.aio.tasks import stop
from chimera.core.context import Context
from chimera.core.keys.personal import is_personal_in
from chimera.errors import ChimeraError
from chimera.journal.consumers import consumers_of, other_sources
from chimera.journal.leases import Leases
from chimera.journal.relay import Relay
from chimera.parts import Reaction
from chimera.run.builds import build_of, keep_build
from chimera.upkeep.drift.copy_audit import keep_auditing
from chimera.upkeep.drift.lists import keep_lists
from chimera.upkeep.drift.share_audit import keep_announcing
from chimera.upkeep.drift.unique import keep_unique
from chimera.upkeep.forgetting.forget import keep_forgetting
from chimera.upkeep.positions import keep_reporting
from chimera.upkeep.recovery.epochs import keep_epochs
from chimera.upkeep.retention import keep_trimming
from chimera.upkeep.standing import keep_telling
from chimera.upkeep.tables.keeping import TablesKeeper
from chimera.views.rebuild import ViewKeeper

Work = Callable[[frozenset[int]], Awaitable[None]]
"""A work on the partitions that are held, until it is cancelled or fails."""


class WriteHead:
    """The consumer side of a service. `holder` names this worker among those that share the partitions."""

    def __init__(self, context: Context, holder: str) -> None:
        self._context = context
        self._leases = Leases(context, holder, code=build_of(context.service))

    async def run(self) -> None:
        """Work until cancelled, through whatever fails; finishes what it took, and gives back its leases at the end."""
        self._context.sent.doubt()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._persist("history", partial(keep_epochs, self._context)))
                tasks.create_task(self._persist("leases", self._keep_leases))
                tasks.create_task(self._persist("standing", partial(keep_telling, self._context)))
                for name, work in self._works().items():
                    tasks.create_task(self._while_held(name, work, lambda: self._leases.held))
                for view in self._context.service.views.values():
                    keeper = ViewKeeper(self._context, view, self._leases)
                    tasks.create_task(
                        self._while_held(f"view {view.name}", keeper.run, lambda: self._leases.held_alike)
                    )
        finally:
            with suppress(ChimeraError):
                await self._leases.give_back()

    async def _keep_leases(self) -> None:
        await keep_build(self._context)  # before anybody hears of it by a lease
        await self._leases.keep()

    def _works(self) -> dict[str, Work]:
        """The works by name, but for the views: those only their own code can fold."""
        context, service = self._context, self._context.service

        def alike() -> frozenset[int]:
            return self._leases.held_alike

        works: dict[str, Work] = {}
        for consumer in consumers_of(service):
            if consumer.kind == "commands":
                works["commands"] = CommandConsumer(context, alike).run
            elif consumer.kind == "relay":
                works["relay"] = Relay(context).run
            elif isinstance(consumer.declared, Reaction):
                reacting = partial(keep_reacting, context, consumer.declared, consumer.source, alike)
                works[f"reaction {consumer.declared.name} {consumer.source}"] = reacting
        for borrow in service.borrows.values():
            works[f"copy {borrow.name}"] = partial(keep_copies, context, borrow)
            if context.timing.audit_s:
                works[f"audit {borrow.name}"] = partial(keep_auditing, context, borrow)
        if service.shares:
            works["shares"] = partial(keep_announcing, context)
        works |= {f"report to {source}": partial(keep_reporting, context, source) for source in other_sources(service)}
        works["retention"] = partial(keep_trimming, context)
        if is_personal_in(service):
            works["forgetting"] = partial(keep_forgetting, context)
        return works | self._tables() | (self._proofs() if context.timing.audit_s else {})

    def _tables(self) -> dict[str, Work]:
        """The works that keep tables which can be built anew."""
        reactions = [reaction for reaction in self._context.service.reactions.values() if reaction.tables]
        return {f"tables of {each.name}": TablesKeeper(self._context, each, self._leases).run for each in reactions}

    def _proofs(self) -> dict[str, Work]:
        """The works that prove what is derived within the service, and mend it."""
        context, service = self._context, self._context.service
        works: dict[str, Work] = {"unique": partial(keep_unique, context)}
        if any(view.lists for view in service.views.values()):
            works["lists"] = partial(keep_lists, context)
        return works

    async def _while_held(self, name: str, work: Work, holding: Callable[[], frozenset[int]]) -> None:
        """Do the work on the partitions that are held; start it anew when they change."""
        while True:
            held = holding()
            working = asyncio.ensure_future(self._persist(name, partial(work, held))) if held else None
            try:
                while holding() == held:
                    await self._leases.changed.wait(60.0)
            finally:
                if working is not None:
                    await stop(working)

    async def _persist(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        context = self._context
        await persist(f"{context.service.name} {name}", work, context.clock, context.timing, context.troubles)
