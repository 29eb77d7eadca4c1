"""A fleet as it runs: its processes, which are killed and started, and its engines, which outlive them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from chimera.adapters.http import HttpOwner
from chimera.core.context import Context, Process
from chimera.core.metrics import Metrics
from chimera.core.names import events_topic
from chimera.errors import ChimeraError, DeclarationError, SettingsError
from chimera.messages import Message, unreadable
from chimera.ports import Features, Owner
from chimera.run.engines import context_of, supplied
from chimera.run.write_head import WriteHead
from chimera.service import Service
from chimera.share.owner import OwnStore
from chimera.testing.fleets.engines import ReachedLog, ReachedStore, ReachedViews
from chimera.testing.fleets.network import Listener, Network, SimTransport
from chimera.testing.fleets.promises import Promises
from chimera.testing.fleets.trouble import Trouble, Way
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews, ViewsState
from chimera.testing.plans.fleet import Fleet
from chimera.testing.plans.plan import Plan
from chimera.testing.virtual.clock import SimClock
from chimera.testing.virtual.loop import SimLoop, SimProcess
from chimera.upkeep.admission.naming import admit
from chimera.web.identity.ways import Untold
from chimera.web.read_head import ReadHead
from chimera.web.site import Site

SHARED = Features(durable=True, shared=True, poll_s=0.4)
START_S = 0.3
"""The pause of a process that found an engine away when it started."""


class World:
    """Engines, processes and the network of a run. A role, such as `tally/write/0`, is played by one process at a time.

    `plain` are the services' contexts without any trouble, for who looks at it all from outside.
    """

    def __init__(self, fleet: Fleet, plan: Plan, loop: SimLoop) -> None:
        self.fleet = fleet
        self.plan = plan
        self.loop = loop
        self.clock = SimClock(loop)
        self.trouble = Trouble(loop, plan.seed)
        self.trouble.delayed, self.trouble.latency_s = plan.delayed, plan.latency_s
        self.trouble.network_s = plan.network_s
        self.network = Network(loop, self.trouble)
        self.promises = Promises(fleet, self.clock, loop)
        self.log = MemoryLog(features=SHARED, on_append=self.promises.appended)
        self.stores = {
            name: MemoryStore(features=SHARED, on_commit=self.promises.committing(name)) for name in fleet.services
        }
        self.views = {
            name: MemoryViews(
                features=SHARED, on_write=self.promises.writing(name), on_drop=self.promises.dropping(name)
            )
            for name in fleet.services
        }
        self.build = dict.fromkeys(fleet.services, 0)
        self.wrapped: Callable[[Context], Context] = lambda context: context
        self.live: dict[str, SimProcess] = {}
        self._works: dict[str, asyncio.Task[None]] = {}
        self._starts: dict[str, int] = {}
        self._stopping: set[str] = set()
        self._ran: dict[str, int] = {}
        self.plain = {name: self._plain(service) for name, service in fleet.services.items()}

    @property
    def roles(self) -> list[str]:
        """Every role, in order."""
        return [
            f"{name}/{kind}/{number}"
            for name in self.fleet.services
            for kind in ("write", "read")
            for number in range(self.plan.processes[f"{name}/{kind}"])
        ]

    def start(self, role: str) -> None:
        """Start a process in a role that nobody plays."""
        self._starts[role] = self._starts.get(role, 0) + 1
        process = self.loop.process(f"{role}#{self._starts[role]}")
        self.live[role] = process
        self._stopping.discard(role)
        self._ran[role] = self.build[role.partition("/")[0]]
        self.promises.note("starts", process=process.name)
        self._works[role] = process.spawn(self._live(role, process))

    def kill(self, role: str) -> None:
        """Kill the process in a role, if there is one."""
        process = self.live[role]
        if process.is_alive:
            self.promises.note("is killed", process=process.name)
            process.kill()

    def revive(self, role: str) -> None:
        """Have the role played from now on: by a new process unless one plays it, with the build that is to run."""
        process = self.live[role]
        process.resume()
        process.skew(0.0)
        if role in self._stopping or self._ran[role] != self.build[role.partition("/")[0]]:
            process.kill()
        if not process.is_alive:
            self.start(role)

    async def stop(self, role: str) -> None:
        """Stop the process in a role in order, as SIGTERM does; one that takes too long is killed."""
        process, work = self.live[role], self._works[role]
        if process.is_alive:
            self.promises.note("is stopped", process=process.name)
            self._stopping.add(role)
            process.resume()
            process.spawn(_cancelled(work))
            await asyncio.wait([work], timeout=8.0)
            process.kill()

    def deploy(self, service: str, build: int) -> None:
        """Whoever starts from now on runs another build of a service."""
        self.build[service] = build
        self.plain[service] = self._plain(self.fleet.builds[service][build])

    def context(self, service: Service) -> Context:
        """A service with engines as a process has them."""
        name = service.name
        context = context_of(
            service,
            ReachedLog(self.log, Way(self.trouble, "log")),
            ReachedStore(self.stores[name], Way(self.trouble, f"store {name}"), self.promises.read),
            ReachedViews(self.views[name], Way(self.trouble, f"views {name}")),
            self._owner,
            clock=self.clock,
            timing=self.fleet.timing,
            callers=Untold(),
        )
        fleet = self.fleet
        return supplied(
            self.wrapped(
                replace(
                    context,
                    metrics=_NO_METRICS,
                    limits=fleet.limits,
                    retry=fleet.retry,
                    retention=fleet.retention,
                    process=Process(self.clock),
                )
            )
        )

    def take_moment(self, engine: str) -> Callable[[], None]:
        """What a view store, such as `views tally`, or a log of events, `log tally`, has now, to be put back later."""
        kind, _, name = engine.partition(" ")
        if kind == "log":
            return self.log.moment(events_topic(name))
        moment = self.views[name].moment()
        return lambda: self._restore(name, moment)

    def wipe(self, engine: str) -> None:
        """A view store loses all it has."""
        self._restore(engine.partition(" ")[2], ViewsState())

    def empty_log(self, service: str) -> None:
        """Make the log of a service's events anew."""
        self.log.remake(events_topic(service))

    def write_junk(self, service: str) -> None:
        """Write what is no message of a service into its topics, as somebody else might."""
        topic, time = events_topic(service), self.plain[service].clock.stamp()
        for partition in range(self.fleet.services[service].partitions):
            junk = unreadable(f"{topic}/{partition}", partition, b"\xff\xfe", "it is junk")
            other = Message("other", "other", "other.Happened", "k", time, b"{}", partition, 1)
            forged = Message("forged", service, f"{service}.Forged", "k", time, b"{}", partition, 10**9)
            self.log.smuggle(topic, [junk, other, forged])

    def _restore(self, name: str, moment: ViewsState) -> None:
        self.views[name].restore(moment)
        self.promises.restored(name, moment.checkpoints)

    def _plain(self, service: Service) -> Context:
        context = context_of(
            service,
            self.log,
            self.stores[service.name],
            self.views[service.name],
            lambda name: OwnStore(self.fleet.services[name], self.stores[name], self.clock),
            clock=self.clock,
            timing=self.fleet.timing,
            callers=Untold(),
        )
        return replace(context, metrics=_NO_METRICS, retention=self.fleet.retention, process=Process(self.clock))

    def _owner(self, name: str) -> Owner:
        return HttpOwner(name, f"http://{name}", transport=SimTransport(self.network, name))

    async def _live(self, role: str, process: SimProcess) -> None:
        name, kind, _ = role.split("/")
        context = self.context(self.fleet.builds[name][self.build[name]])
        while True:
            try:
                await context.prepare()
                await admit(context)
                head = ReadHead(context) if kind == "read" else None
                if head is not None:
                    await head.start()
                break
            except (DeclarationError, SettingsError) as refusal:
                self.promises.breaks("whoever is started starts", f"{role}: {refusal}")
                return
            except ChimeraError:
                await asyncio.sleep(START_S)
        if head is None:
            await WriteHead(context, process.name).run()
            return
        listener = Listener(process, Site([head]), head.borrows)
        self.network.listen(name, listener)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.network.leave(name, listener)
            head.leave()
            await head.stop()


async def _cancelled(work: asyncio.Task[None]) -> None:
    work.cancel()
    with suppress(asyncio.CancelledError):
        await work


class _NoMetrics(Metrics):
    """Counts nothing."""

    def __init__(self) -> None: ...

    def __getattribute__(self, name: str) -> Any:
        return _nothing


def _nothing(*_: object, **__: object) -> None: ...


_NO_METRICS = _NoMetrics()
