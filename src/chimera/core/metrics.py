"""The counters of Chimera, for Prometheus. One registry per process, passed in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class Metrics:
    """The counters of the services that run in this process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._handled = Counter(
            "chimera_handled",
            "Messages handled, by what became of them.",
            ["service", "consumer", "outcome"],
            registry=self._registry,
        )
        self._accepted = _Counts(
            "chimera_accepted", "Commands that were confirmed by the log.", ["service", "command"], self._registry
        )
        self._applied = Counter(
            "chimera_applied",
            "Events folded into views and copies.",
            ["service", "consumer", "source"],
            registry=self._registry,
        )
        self._repaired = Counter(
            "chimera_repaired",
            "Events fetched from the owner's journal, not from the log.",
            ["service", "source"],
            registry=self._registry,
        )
        self._borrowed = _Counts(
            "chimera_borrowed",
            "Borrowed reads, by mode and by the state of what was found.",
            ["service", "share", "mode", "state"],
            self._registry,
        )
        self._fetches = Counter(
            "chimera_owner_calls", "Calls to owners.", ["service", "share", "outcome"], registry=self._registry
        )
        self._diverged = Gauge(
            "chimera_diverged",
            "Partitions in which a consumer stands on a history that its owner does not have.",
            ["service", "consumer", "source"],
            registry=self._registry,
        )
        self._circuit = Gauge(
            "chimera_owner_circuit_open",
            "Whether an owner is left alone because it keeps failing.",
            ["service", "share"],
            registry=self._registry,
        )
        self._drift_found = Counter(
            "chimera_drift_found",
            "Keys of copies that differed from what their owner had emitted: changed, missing or invented.",
            ["service", "share", "kind"],
            registry=self._registry,
        )
        self._drift_repaired = Counter(
            "chimera_drift_repaired",
            "Keys of copies that were made equal to their owner again.",
            ["service", "share"],
            registry=self._registry,
        )
        self._announced = Counter(
            "chimera_share_announced",
            "Shared documents emitted by the owner's audit: changed, missing or invented in what it had emitted.",
            ["service", "share", "kind"],
            registry=self._registry,
        )
        self._relayed = Counter(
            "chimera_relayed", "Events moved from the journal to the log.", ["service"], registry=self._registry
        )
        self._passed_over = Counter(
            "chimera_records_passed_over",
            "Records in the log of a source's events that are none of it; the log of this process shows them.",
            ["service", "source"],
            registry=self._registry,
        )
        self._left = Counter(
            "chimera_left_in_journal",
            "Events that the log can't carry: consumers fetch them from the journal.",
            ["service"],
            registry=self._registry,
        )
        self._trimmed = Counter(
            "chimera_trimmed",
            "What was dropped because it was old: rows of the journal, the inbox, the log, the consumers, or parked.",
            ["service", "what"],
            registry=self._registry,
        )
        self._held = Gauge(
            "chimera_partitions_held", "Partitions that this worker works on.", ["service"], registry=self._registry
        )

    def handled(self, service: str, consumer: str, outcome: str, count: int) -> None:
        """Messages that a consumer has handled, by how they ended."""
        self._handled.labels(service, consumer, outcome).inc(count)

    def accepted(self, service: str, command: str) -> None:
        """A command that the log has confirmed, by its CloudEvents type."""
        self._accepted.counts[service, command] += 1

    def applied(self, service: str, consumer: str, source: str, count: int) -> None:
        """Events of a source folded into a view or a copy."""
        self._applied.labels(service, consumer, source).inc(count)

    def repaired(self, service: str, source: str, count: int) -> None:
        """Events fetched from the owner's journal, not from the log."""
        self._repaired.labels(service, source).inc(count)

    def borrowed(self, service: str, share: str, mode: str, state: str) -> None:
        """A borrowed read, by its mode and by the state of what was found."""
        self._borrowed.counts[service, share, mode, state] += 1

    def owner_called(self, service: str, share: str, outcome: str) -> None:
        """A call to an owner, by how it ended."""
        self._fetches.labels(service, share, outcome).inc()

    def diverged(self, service: str, consumer: str, source: str, partitions: int) -> None:
        """The partitions in which a consumer stands on a history that its owner does not have."""
        self._diverged.labels(service, consumer, source).set(partitions)

    def circuit(self, service: str, share: str, *, is_open: bool) -> None:
        """The circuit to an owner: open while it is left alone because it keeps failing."""
        self._circuit.labels(service, share).set(is_open)

    def drift_found(self, service: str, share: str, kind: str, count: int) -> None:
        """Keys of a copy that differed from what the owner had emitted: changed, missing or invented."""
        self._drift_found.labels(service, share, kind).inc(count)

    def drift_repaired(self, service: str, share: str, count: int) -> None:
        """Keys of a copy that were made equal to their owner again."""
        self._drift_repaired.labels(service, share).inc(count)

    def announced(self, service: str, share: str, kind: str, count: int) -> None:
        """Shared documents emitted by the owner's audit: changed, missing or invented in what it had emitted."""
        self._announced.labels(service, share, kind).inc(count)

    def relayed(self, service: str, count: int) -> None:
        """Events moved from the journal to the log."""
        self._relayed.labels(service).inc(count)

    def passed_over(self, service: str, source: str) -> None:
        """A record among a source's events that is none of it."""
        self._passed_over.labels(service, source).inc()

    def left(self, service: str) -> None:
        """An event that the log can't carry."""
        self._left.labels(service).inc()

    def trimmed(self, service: str, what: str, count: int) -> None:
        """Rows or records dropped because they were old."""
        self._trimmed.labels(service, what).inc(count)

    def held(self, service: str, count: int) -> None:
        """The partitions that this worker works on now, by their number."""
        self._held.labels(service).set(count)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Counts(Collector):
    """Counts what comes with every request: in one thread that takes no locks, which cost ten times more."""

    def __init__(self, name: str, help_: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self.counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        self._form = name, help_, labels
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        name, help_, labels = self._form
        family = CounterMetricFamily(name, help_, labels=labels)
        for values, count in self.counts.items():
            family.add_metric(values, count)
        return [family]


def merge_expositions(texts: Mapping[str, str]) -> bytes:
    """The metrics of several processes as one text, in which the label `process` tells whose they are."""
    families: dict[str, Metric] = {}
    for process, text in texts.items():
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.add_sample(sample.name, {"process": process, **sample.labels}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
