"""What became of every request of a load: nothing may be lost without being counted."""

from collections import Counter
from typing import NamedTuple

from msgspec import Struct, field

from marketplace.requests import PHASES, Kind


class Tally(NamedTuple):
    """How many of some kind were read from the source, sent, and what became of them."""

    read: int
    sent: int
    applied: int
    refused: int
    parked: int
    skipped: int

    @property
    def settled(self) -> int:
        return self.applied + self.refused + self.parked + self.skipped

    @property
    def balances(self) -> bool:
        return self.read == self.settled == self.sent + self.skipped


class Account(Struct):
    """`expected` is how many requests and skips the source says it holds; times are in seconds."""

    expected: int
    read: Counter[Kind] = field(default_factory=Counter)
    sent: Counter[Kind] = field(default_factory=Counter)
    applied: Counter[Kind] = field(default_factory=Counter)
    refused: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    parked: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    skipped: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    unsettled: Counter[Kind] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    events: int = 0
    seconds: float = 0.0
    settled_after: float = 0.0
    dashboards_after: float | None = None
    doing: str = "starting"

    def tally(self, *kinds: Kind) -> Tally:
        return Tally(
            *(sum(counter[kind] for kind in kinds) for counter in (self.read, self.sent, self.applied)),
            *(_of(counter, kinds) for counter in (self.refused, self.parked, self.skipped)),
        )

    @property
    def everything(self) -> Tally:
        return self.tally(*(kind for phase in PHASES for kind in phase))

    @property
    def order_events(self) -> Tally:
        return self.tally(*PHASES[-1])

    @property
    def commands_per_s(self) -> float:
        """Order commands, from the first sent until all were settled."""
        return self.order_events.sent / self.settled_after if self.settled_after else 0.0

    @property
    def events_per_s(self) -> float:
        """The orders' new events, from the first command sent until the dashboards had them all."""
        return self.events / self.dashboards_after if self.dashboards_after else 0.0

    @property
    def balances(self) -> bool:
        everything = self.everything
        return everything.balances and everything.read == self.expected and self.dashboards_after is not None

    def lines(self) -> list[str]:
        """The closing report."""
        kinds = [kind for phase in PHASES for kind in phase if self.read[kind]]
        return [
            f"{'':8}" + "".join(f"{word:>9}" for word in Tally._fields),
            *(f"{kind:8}" + "".join(f"{count:>9,}" for count in self.tally(kind)) for kind in kinds),
            *_reasons("refused", self.refused),
            *_reasons("parked", self.parked),
            *_reasons("skipped", self.skipped),
            *(f"never settled: {kind} {count:,}" for kind, count in sorted(self.unsettled.items())),
            *(f"noted: {what} {count:,}" for what, count in sorted(self.notes.items()) if count),
            f"time: {self.seconds:.1f} s; {self.commands_per_s:,.0f} order commands/s from sending through settled; "
            + self._dashboards(),
            self._check(),
        ]

    def _dashboards(self) -> str:
        if self.dashboards_after is None:
            return "the dashboards did not get all of the orders' events"
        return f"{self.events_per_s:,.0f} events/s until the dashboards had all {self.events:,} new ones"

    def _check(self) -> str:
        orders = self.order_events
        sum_up = (
            f"applied {orders.applied:,} + refused {orders.refused:,} + parked {orders.parked:,}"
            f" + skipped {orders.skipped:,}"
        )
        if self.balances:
            return f"check: order events {orders.read:,} = {sum_up}: balances"
        sign = "=" if orders.balances else "≠"
        return (
            f"check: DOES NOT BALANCE: order events {orders.read:,} {sign} {sum_up}; of everything, "
            f"expected {self.expected:,}, read {self.everything.read:,}, settled {self.everything.settled:,}"
        )


def _of(counter: Counter[tuple[Kind, str]], kinds: tuple[Kind, ...]) -> int:
    return sum(count for (kind, _), count in counter.items() if kind in kinds)


def _reasons(word: str, counter: Counter[tuple[Kind, str]]) -> list[str]:
    return [f"{word}: {kind} {reason} {count:,}" for (kind, reason), count in sorted(counter.items())]
