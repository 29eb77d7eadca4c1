"""Drawing a plan: which processes, which commands, and what goes wrong when, all by chance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any, NamedTuple

import msgspec

from chimera.forms import encode
from chimera.testing.plans.fleet import Fleet
from chimera.testing.plans.plan import KINDS, Fault, Kind, Plan, Sending
from chimera.testing.plans.values import draw_body

CLIENTS = 4
COMMANDS = 7
"""The most commands of a client."""
CROWD = 10
"""The most clients of a crowd."""
MOMENT_S = 0.01
POINTS = ("log.append", "store.begin", "store.save", "store.commit", "store.journal", "views.get", "views.write")
UNLIKELY: dict[Kind, float] = {"upgraded": 0.5, "restored": 0.4, "wiped": 0.4, "emptied": 0.4, "skewed": 0.4}
"""Kinds that are drawn less often than others, by how much."""
DEPLOYED = 0.2
"""The share of plans with a rolling deploy beside what else is drawn."""


def draw_plan(fleet: Fleet, seed: int, kinds: Collection[Kind] = KINDS, chance: Random | None = None) -> Plan:
    """The plan of a seed; of these kinds of faults only.

    `chance` is the seed's unless it is given: Hypothesis's `st.randoms()` draws, and shrinks, plans as well.
    """
    chance = chance or Random(f"{seed}/plan")
    span_s = chance.uniform(2.0, 5.0)
    processes: dict[str, int] = {}
    for name in fleet.services:
        processes[f"{name}/write"] = min(chance.randint(1, fleet.writers), chance.randint(1, fleet.writers))
        processes[f"{name}/read"] = chance.randint(1, fleet.readers)
    drawing = _Faults(fleet, chance, processes, span_s)
    possible = possible_kinds(fleet, kinds)
    weights = [UNLIKELY.get(kind, 1.0) for kind in possible]
    chosen = chance.choices(possible, weights, k=chance.randint(2, 10)) if possible else []
    chosen += ["upgraded"] * ("upgraded" in possible and chance.random() < DEPLOYED)
    faults = sorted(_apart([drawing.draw(kind) for kind in chosen]), key=lambda fault: fault.at)
    upgraded = {fault.process for fault in faults if fault.kind == "upgraded"}
    for name in upgraded:  # so that builds are side by side
        processes[f"{name}/write"] = max(processes[f"{name}/write"], min(2, fleet.writers))
    return Plan(
        seed=seed,
        processes=processes,
        commands=_commands(fleet, chance, span_s, upgraded),
        faults=faults,
        until_s=round(span_s, 3),
        shuffle=chance.random() < 0.2,
        latency_s=chance.choice((0.001, 0.003, 0.02)),
        delayed=chance.choice((0.02, 0.1, 0.3)),
        network_s=chance.choice((0.001, 0.005, 0.05)),
    )


def _apart(faults: Sequence[Fault]) -> list[Fault]:
    """Without what is not promised: a view store that is put back while its service is upgraded."""
    upgraded = {f"views {fault.process}" for fault in faults if fault.kind == "upgraded"}
    return [fault for fault in faults if not (fault.kind in ("wiped", "restored") and fault.engine in upgraded)]


def possible_kinds(fleet: Fleet, kinds: Collection[Kind] = KINDS) -> list[Kind]:
    """The kinds of faults, of these, that can strike this fleet."""
    services = fleet.services.values()
    has: dict[Kind, bool] = {
        "mode changed": any(service.borrows for service in services),
        "rebuilt": any(service.views for service in services),
        "upgraded": any(len(builds) > 1 for builds in fleet.builds.values()),
    }
    return [kind for kind in KINDS if kind in kinds and has.get(kind, True)]


def _commands(fleet: Fleet, chance: Random, span_s: float, upgraded: Collection[str]) -> list[Sending]:
    every = [
        (fleet.services[name], handler)
        for name in fleet.services
        for handler in fleet.handlers(name, later=name in upgraded)
        if handler.route and fleet.commands.get(handler.command, ...) is not None
    ]
    sendings: list[Sending] = []
    wanted = chance.choice(every) if every else None
    for client in _clients(chance, span_s) if every else ():
        times = sorted(chance.uniform(client.first, client.last) for _ in range(chance.randint(*client.commands)))
        for number, at in enumerate(times, 1):
            service, handler = wanted if wanted and client.is_crowd else chance.choice(every)
            draw = fleet.commands.get(handler.command)
            body: dict[str, Any] = (
                msgspec.json.decode(encode(draw(chance))) if draw is not None else draw_body(handler.command, chance)
            )
            command, label, reads = (
                handler.command.__names__[0],
                f"{client.name}-{number}",
                chance.random() < client.looks,
            )
            sendings.append(Sending(round(at, 3), client.name, service.name, command, body, label, reads))
    return sorted(sendings, key=lambda sending: sending.at)


class _Client(NamedTuple):
    """When a client sends, at least and at most how many commands, and how often it looks at what became of one.

    A crowd sends commands of one type.
    """

    name: str
    first: float
    last: float
    commands: tuple[int, int] = (2, COMMANDS)
    looks: float = 1.0
    is_crowd: bool = False


def _clients(chance: Random, span_s: float) -> list[_Client]:
    """A few that send now and then, or all at one moment; and now and then a crowd of others in one more moment."""
    clients: list[_Client] = []
    for number in range(chance.randint(2, CLIENTS)):
        first, last = 0.0, span_s
        if chance.random() < 0.3:
            first = chance.uniform(0.0, span_s)
            last = first + MOMENT_S
        clients.append(_Client(f"c{number}", first, last))
    if chance.random() < 0.4:
        first = chance.uniform(0.0, span_s)
        crowd = range(chance.randint(3, CROWD))
        clients += [_Client(f"d{number}", first, first + MOMENT_S, (1, 3), 0.1, True) for number in crowd]
    return clients


class _Faults:
    def __init__(self, fleet: Fleet, chance: Random, processes: dict[str, int], span_s: float) -> None:
        self._fleet = fleet
        self._chance = chance
        self._span_s = span_s
        self._roles = [f"{kind}/{number}" for kind, count in processes.items() for number in range(count)]
        self._stores = [f"store {name}" for name in fleet.services]
        self._views = [f"views {name}" for name in fleet.services]
        self._logs = [f"log {name}" for name in fleet.services]
        self._borrows = [(each.name, borrow) for each in fleet.services.values() for borrow in each.borrows]
        self._built = [(each.name, view) for each in fleet.services.values() for view in each.views]
        self._draws: dict[Kind, Callable[[Kind, float], Fault]] = {
            "killed": self._on_process,
            "paused": self._on_process,
            "stopped": self._on_process,
            "killed at a call": self._at_call,
            "upgraded": self._upgrade,
            "skewed": self._skew,
            "cut": self._away,
            "full": self._away,
            "doubled": self._on_events,
            "lost": self._on_events,
            "late": self._on_events,
            "emptied": self._of_service,
            "wiped": self._of_views,
            "restored": self._of_views,
            "request lost": self._on_requests,
            "answer lost": self._on_requests,
            "request doubled": self._on_requests,
            "request slow": self._on_requests,
            "mode changed": self._mode,
            "rebuilt": self._rebuild,
            "retried": self._of_service,
            "junk": self._of_service,
            "uncarried": self._on_process,
        }
        self._upgraded = [name for name, builds in fleet.builds.items() if len(builds) > 1]

    def draw(self, kind: Kind) -> Fault:
        """A fault of this kind."""
        at = round(self._chance.uniform(0.1, self._span_s), 3)
        return self._draws.get(kind, self._on_calls)(kind, at)

    def _role(self) -> str:
        return self._chance.choice(self._roles)

    def _engine(self) -> str:
        kinds = (["log"], self._stores, self._views)
        return self._chance.choice(self._chance.choice(kinds))

    def _for_s(self, most: float) -> float:
        return round(self._chance.uniform(0.05, most), 3)

    def _on_process(self, kind: Kind, at: float) -> Fault:
        for_s = self._for_s(8.0 if kind == "paused" and self._chance.random() < 0.5 else 2.0)
        return Fault(at, kind, self._role(), for_s=for_s)

    def _at_call(self, kind: Kind, at: float) -> Fault:
        point, late = self._chance.choice(POINTS), self._chance.random() < 0.5
        return Fault(at, kind, self._role(), for_s=self._for_s(2.0), point=point, late=late)

    def _skew(self, kind: Kind, at: float) -> Fault:
        return Fault(at, kind, self._role(), by_s=round(self._chance.uniform(-20.0, 20.0), 1))

    def _upgrade(self, kind: Kind, at: float) -> Fault:
        service = self._chance.choice(self._upgraded)
        newest, late = len(self._fleet.builds[service]) - 1, self._chance.random() < 0.5
        build = newest if self._chance.random() < 0.75 else self._chance.randrange(newest)
        return Fault(at, kind, service, for_s=self._for_s(2.0), build=build, late=late)

    def _on_calls(self, kind: Kind, at: float) -> Fault:
        engine = self._engine()
        if kind == "conflict":
            engine = self._chance.choice(self._stores)
        process = self._role() if self._chance.random() < 0.4 else ""
        share = self._chance.choice((0.2, 0.5, 1.0) if kind == "conflict" else (0.02, 0.1, 0.5))
        by_s = self._chance.choice((0.01, 0.1, 0.5)) if kind == "slow" else 0.0
        return Fault(at, kind, process, engine, self._for_s(3.0), share=share, by_s=by_s)

    def _away(self, kind: Kind, at: float) -> Fault:
        engine = self._engine()
        if kind == "cut" and self._chance.random() < 0.25:
            engine = f"http {self._chance.choice(list(self._fleet.services))}"
        process = self._role() if kind == "cut" and self._chance.random() < 0.5 else ""
        return Fault(at, kind, process, engine, self._for_s(3.0))

    def _on_events(self, kind: Kind, at: float) -> Fault:
        return Fault(at, kind, for_s=self._for_s(4.0), share=self._chance.choice((0.05, 0.3, 1.0)))

    def _of_service(self, kind: Kind, at: float) -> Fault:
        return Fault(at, kind, self._chance.choice(list(self._fleet.services)))

    def _of_views(self, kind: Kind, at: float) -> Fault:
        by_s = round(self._chance.uniform(0.1, 3.0), 3) if kind == "restored" else 0.0
        engines = [*self._views, *self._logs] if kind == "restored" else self._views
        return Fault(at, kind, engine=self._chance.choice(engines), by_s=by_s)

    def _on_requests(self, kind: Kind, at: float) -> Fault:
        engine = f"http {self._chance.choice(list(self._fleet.services))}"
        by_s = self._chance.choice((0.02, 0.3)) if kind == "request slow" else 0.0
        share = self._chance.choice((0.05, 0.3))
        return Fault(at, kind, engine=engine, for_s=self._for_s(4.0), share=share, by_s=by_s)

    def _mode(self, kind: Kind, at: float) -> Fault:
        service, borrow = self._chance.choice(self._borrows)
        return Fault(at, kind, service, what=borrow, to=self._chance.choice(("sync", "async", "hybrid")))

    def _rebuild(self, kind: Kind, at: float) -> Fault:
        service, view = self._chance.choice(self._built)
        return Fault(at, kind, service, what=view)
