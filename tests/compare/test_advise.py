"""`chimera advise`: which mode fits which figures, and where the figures come from."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from chimera.core.context import Context
from chimera.core.metrics import Metrics, merge_expositions
from chimera.errors import SettingsError, Unavailable
from chimera.run.serving import listening
from chimera.run.settings import ServiceSettings, Settings
from chimera.testing.engines import memory_engines
from chimera.web.probes import Probes
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from chimera.web.wire.routing import Route
from chimera_compare.advise import ENOUGH_READS, RULES, Figures, advice, show_advice, watch
from chimera_compare.exposition import counts
from tests.support import Bank, Deposit, Shop, direct, opened


def seen(**changes: Any) -> Figures:
    """A busy borrow whose owner is well: 1,000 reads in 10 s, a third of them of keys with a document."""
    figures = {
        "mode": "sync",
        "seconds": 10.0,
        "reads": {"fresh": 300, "absent": 700},
        "calls": {"answered": 900},
        "changes": 500,
        "change_bytes": 50_000,
    }
    return Figures(**{**figures, **changes})


CASES: list[tuple[Figures, bool, str, str]] = [
    (seen(calls={"answered": 890, "failed": 10}), False, "async", "1% of the calls"),
    (seen(calls={"answered": 50, "timeout": 2, "spared": 48}), False, "async", "50% of the calls"),
    (seen(reads={"fresh": 200, "stale": 100, "absent": 700}), False, "async", "10% of the reads"),
    (seen(mode="async", reads={"stale": 1000}, calls={}), False, "async", "100% of the reads were stale"),
    (seen(seconds=200.0), False, "sync", "5.0 reads a second"),
    (seen(changes=100), False, "async", "10 reads or more for each change"),
    (seen(changes=0), False, "async", "1000 reads or more for each change"),
    (seen(), False, "hybrid", "only 30% of the reads have a document"),
    (seen(changes=None), False, "hybrid", "could not be learned"),
    (seen(reads={"fresh": 900, "absent": 100}), False, "sync", "90% of the reads have a document"),
    (seen(changes=100), True, "hybrid", "as of now, and only 30%"),
    (seen(changes=100, reads={"fresh": 1000}), True, "sync", "as of now, and 100%"),
    (seen(calls={"answered": 800, "failed": 100}), True, "hybrid", "as of now"),
]


@pytest.mark.parametrize(("figures", "is_fresh", "mode", "reason"), CASES)
def test_the_mode_that_fits(figures: Figures, is_fresh: bool, mode: str, reason: str) -> None:
    given = advice(figures, is_fresh=is_fresh)
    assert given.mode == mode
    assert reason in given.reasons[0]


def test_every_rule_decides_somewhere() -> None:
    decided = {
        next(place for place, rule in enumerate(RULES) if rule.holds(figures, is_fresh))
        for figures, is_fresh, *_ in CASES
    }
    assert decided == set(range(len(RULES)))


def test_too_little_traffic_says_nothing() -> None:
    given = advice(seen(reads={"fresh": ENOUGH_READS - 1}))
    assert (given.mode, given.costs) == (None, {})
    assert "too few to say" in given.reasons[0]
    assert advice(seen(reads={"fresh": ENOUGH_READS})).mode is not None


def test_what_each_mode_would_cost_rests_on_the_figures() -> None:
    costs = advice(seen()).costs
    assert "up to 100.0 keys/s" in costs["sync"]
    assert "up to 30.0 keys/s" in costs["hybrid"]
    assert "50 changes/s, 5,000 B/s" in costs["async"]
    assert "at most 0.1 changes/s" in advice(seen(changes=0, change_bytes=0)).costs["async"]


def test_a_failing_owner_is_mentioned_where_reads_must_be_fresh() -> None:
    reasons = advice(seen(calls={"answered": 800, "failed": 200}), is_fresh=True).reasons
    assert any("20% of the calls failed" in reason for reason in reasons)
    assert any("absent also means" in reason for reason in reasons)


def test_counters_of_several_processes_add_up() -> None:
    metrics = Metrics()
    for state in ("fresh", "fresh", "absent"):
        metrics.borrowed("shop", "cards", "sync", state)
    metrics.borrowed("other", "cards", "sync", "fresh")
    text = metrics.exposition().decode()
    merged = merge_expositions({"shop read": text, "shop read 2": text}).decode()
    labels = {"service": "shop", "share": "cards"}
    assert counts(text, "chimera_borrowed", "state", **labels) == {"fresh": 2, "absent": 1}
    assert counts(merged, "chimera_borrowed", "state", **labels) == {"fresh": 4, "absent": 2}


class Served(NamedTuple):
    """The bank and the shop on one port, and settings by which they are found."""

    bank: Context
    shop: Context
    at: str
    settings: Settings


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    bank = await opened(Bank().service, memory_engines())
    shop = await opened(Shop(mode="sync").service, memory_engines(), owners={"accounts": bank.owners["accounts"]})
    heads = [ReadHead(bank), ReadHead(shop)]
    async with listening(Site([*heads, _Metrics(shop)]), "127.0.0.1", 0) as at:
        services = {name: ServiceSettings(app="unused:unused", url=at) for name in ("accounts", "shop")}
        yield Served(bank, shop, at, Settings(services=services))


class _Metrics:
    """What a process serves beside its services."""

    def __init__(self, context: Context) -> None:
        self._probes = Probes(context)

    def routes(self) -> Sequence[Route]:
        return self._probes.process_routes()


async def test_the_figures_are_of_the_time_watched(served: Served) -> None:
    bank, shop, at, settings = served
    reads = ReadHead(shop).borrows["cards"]
    await direct(bank, Deposit("before", 1))
    await reads.get("before")

    async def traffic() -> None:
        await asyncio.sleep(0.3)
        await direct(bank, Deposit("a", 1), Deposit("b", 1))
        for key in ("a", "b", "nobody", "nobody else"):
            await reads.get(key)

    async with aiohttp.ClientSession() as session:
        figures, _ = await asyncio.gather(watch(session, settings, "shop", "cards", at, 1.0), traffic())
    assert (figures.mode, figures.reads, figures.changes, figures.lag) == ("sync", {"fresh": 2, "absent": 2}, 2, None)
    assert figures.calls["answered"] == figures.made_calls >= 1
    assert figures.change_bytes > 20
    assert figures.known == 0.5


async def test_the_change_rate_is_unknown_when_the_owner_does_not_answer(served: Served) -> None:
    _, _, at, settings = served
    alone = Settings(services={"shop": settings.services["shop"]})
    async with aiohttp.ClientSession() as session:
        figures = await watch(session, alone, "shop", "cards", at, 0.01)
    assert (figures.changes, figures.reads_per_change) == (None, None)


async def test_it_is_told_on_the_terminal(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    settings = served.settings
    await show_advice(settings, "shop", None, url=None, seconds=0.01, fresh=False)
    printed = capsys.readouterr().out
    assert "shop borrows cards, now sync" in printed
    assert "cards: not enough was seen to say" in printed


async def test_what_can_not_be_watched_is_said(served: Served) -> None:
    settings = served.settings
    with pytest.raises(SettingsError, match="shop does not borrow 'dards'; it borrows: cards"):
        await show_advice(settings, "shop", "dards", url=None, seconds=0.01, fresh=False)
    with pytest.raises(SettingsError, match="accounts borrows nothing"):
        await show_advice(settings, "accounts", None, url=None, seconds=0.01, fresh=False)
    with pytest.raises(SettingsError, match="there is no service 'shops'"):
        await show_advice(settings, "shops", None, url=None, seconds=0.01, fresh=False)
    with pytest.raises(Unavailable, match=r"shop does not answer at http://127.0.0.1:1; start it"):
        await show_advice(settings, "shop", None, url="http://127.0.0.1:1", seconds=0.01, fresh=False)


def test_every_threshold_is_explained() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    names = ("ENOUGH_READS", "ENOUGH_CHANGES", "FAILING", "STALE", "FEW_READS_PER_S", "READS_PER_CHANGE", "FEW_KNOWN")
    assert [name for name in names if f"`{name}`" not in documented] == []
