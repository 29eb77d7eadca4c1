"""A fleet: the services that are simulated together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from chimera.core.timing import Limits, Retention, Retry, Timing
from chimera.errors import DeclarationError
from chimera.messages import AnyCommand
from chimera.parts import Handler
from chimera.service import Service

Draw = Callable[[Random], AnyCommand]
"""From chance to a command."""


class Fleet:
    """Services that run together, each in several processes, and what is different from production.

    `builds`: by a service's name, the builds that it is upgraded to, one after another; what only they take is sent in
    plans in which it is. `commands`: how to draw a command of a type, where its fields' types don't say enough; None
    for one that is not sent. `writers`, `readers`: the most processes of each kind that a service has.
    """

    def __init__(
        self,
        *services: Service,
        builds: Mapping[str, Sequence[Service]] | None = None,
        commands: Mapping[Any, Draw | None] | None = None,
        writers: int = 3,
        readers: int = 2,
        timing: Timing = Timing(audit_s=3.0, keep_s=0.5),
        limits: Limits = Limits(),
        retry: Retry = Retry(tries=4, first_s=0.1, longest_s=2.0),
        retention: Retention = Retention(),
    ) -> None:
        self.services = {service.name: service for service in services}
        if len(self.services) != len(services):
            raise DeclarationError("two services of a fleet have the same name")
        later = builds or {}
        if unknown := later.keys() - self.services.keys():
            raise DeclarationError(f"builds of {', '.join(sorted(unknown))}: there is no such service in the fleet")
        self.builds: dict[str, list[Service]] = {
            name: [service, *later.get(name, ())] for name, service in self.services.items()
        }
        self.commands: dict[type[AnyCommand], Draw | None] = {**(commands or {})}
        self.writers = writers
        self.readers = readers
        self.timing = timing
        self.limits = limits
        self.retry = retry
        self.retention = retention
        self._check_owners()

    def handlers(self, service: str, *, later: bool = False) -> list[Handler]:
        """The handlers of a service's first build; and `later`, those of the others that take something else."""
        builds = self.builds[service] if later else self.builds[service][:1]
        found = [handler for build in builds for handler in build.handlers.values()]
        return list({handler.command: handler for handler in reversed(found)}.values())[::-1]

    def handler(self, service: str, command: str) -> Handler:
        """The handler of a command, in the first build that has it."""
        return next(each for each in self.handlers(service, later=True) if command in each.command.__names__)

    def _check_owners(self) -> None:
        for service in self.services.values():
            used = {borrow.owner for borrow in service.borrows.values()}
            used |= {source for view in service.views.values() for source in view.sources}
            used |= {source for reaction in service.reactions.values() for source in reaction.sources}
            for name in sorted(used - self.services.keys()):
                raise DeclarationError(
                    f"{service.name} uses what {name!r} has, which is not in the fleet; it has: "
                    f"{', '.join(self.services)}; add it, as in: Fleet({service.name}, {name})"
                )
