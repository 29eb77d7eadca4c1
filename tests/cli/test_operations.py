"""A view can be rebuilt, shares audited, a mode changed; every lag can be seen."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from chimera import ChimeraError, SettingsError
from chimera.borrow.modes import read_mode
from chimera.cli import operations
from chimera.core.context import Context
from chimera.ports import Checkpoint, Document, Move
from chimera.run.write_head import WriteHead
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually, running
from chimera.upkeep.drift.share_audit import complete
from chimera.upkeep.status import service_status
from tests.support import (
    PARTITIONS,
    Bank,
    Deposit,
    Engines,
    NoOwner,
    Shop,
    accept,
    at_hand,
    consume,
    direct,
    journal_of,
    make_context,
    opened,
    project,
)

SETTINGS: Any = SimpleNamespace(services={"accounts": None})


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    at_hand(monkeypatch, operations, context)


async def test_the_status_says_how_far_every_consumer_is(context: Context, bank: Bank) -> None:
    await accept(context, *(Deposit(f"k{n}", 1) for n in range(6)))
    await consume(context)
    await accept(context, Deposit("k1", 1))
    await project(context, bank.balance)
    status = await service_status(context)
    assert (status["service"], status["partitions"], status["parked"]) == ("accounts", PARTITIONS, {})
    lag: dict[str, int] = {}
    for row in status["consumers"]:
        lag[row["consumer"]] = lag.get(row["consumer"], 0) + row["lag"]
    events = len(await journal_of(context.store))
    assert lag == {
        "commands": 1,
        "relay": events,
        "balance": 0,
        "total": events,
        "thank:accounts": events,
        "enter:accounts": events,
    }


async def test_the_status_on_the_command_line_says_what_is_kept_and_who_holds_it_back(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    await direct(context, *(Deposit(f"k{n}", 1) for n in range(6)))
    await operations.show_status(SETTINGS)
    shown = capsys.readouterr().out
    assert "held back by" in shown
    assert "accounts balance" in shown
    assert str(len(await journal_of(context.store))) in shown


async def test_a_lag_behind_an_owner_that_can_not_be_asked_is_unknown_not_zero() -> None:
    shop = await opened(Shop(mode="async").service, memory_engines(), owners={"accounts": NoOwner()})
    await shop.views.write("borrow.cards.async", [], [_move(3)])
    [row] = [row for row in (await service_status(shop))["consumers"] if row["consumer"] == "borrow.cards.async"]
    assert (row["checkpoint"], row["head"], row["lag"]) == (3, None, None)


def _move(number: int) -> Move:
    return Move("accounts", 0, 0, Checkpoint(number))


@pytest.fixture
async def shop(context: Context, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A shop with a full copy of the bank's cards, and both for the command line to find."""
    for n in range(6):
        await direct(context, Deposit(f"k{n}", 1))
    await complete(context, context.service.shares["cards"], range(PARTITIONS))
    shop = await opened(
        Shop(mode="async").service,
        memory_engines()._replace(log=context.log),
        owners={"accounts": context.owners["accounts"]},
    )
    unaudited = replace(shop, timing=msgspec.structs.replace(shop.timing, audit_s=0.0))
    async with running(WriteHead(unaudited, "a").run()):
        await eventually(lambda: has(shop, 6))
    at_hand(monkeypatch, operations, context, shop)
    return shop


async def has(shop: Context, count: int) -> bool:
    return len(await shop.views.scan("borrow.cards.async")) == count


BOTH: Any = SimpleNamespace(services={"accounts": None, "shop": None})


async def corrupt(shop: Context) -> None:
    kept = await shop.views.get("borrow.cards.async", ["k1"])
    ghost = Document("borrow.cards.async", "[bold]ghost", b"{}")
    assert await shop.views.write("borrow.cards.async", [kept["k1"]._replace(data=b"{}"), ghost], [])


async def test_an_audit_prints_a_line_for_each_share_and_the_keys_and_says_whether_all_is_well(
    shop: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await operations.audit(BOTH, None, None)
    assert capsys.readouterr().out.splitlines() == [
        "accounts cards owner: 6 checked, 0 changed, 0 missing, 0 invented, 0 repaired, 0 in flight",
        "shop cards async: 6 checked, 0 changed, 0 missing, 0 invented, 0 repaired, 0 in flight",
    ]
    await corrupt(shop)
    assert not await operations.audit(BOTH, "shop", "cards", repair=False)
    shown = ["shop cards async: 7 checked, 1 changed, 0 missing, 1 invented, 0 repaired, 0 in flight"]
    assert capsys.readouterr().out.splitlines() == [*shown, "  [bold]ghost", "  k1"]
    assert await operations.audit(BOTH, "shop", None)
    assert "1 changed, 0 missing, 1 invented, 2 repaired" in capsys.readouterr().out
    assert await operations.audit(BOTH, "shop", None, repair=False)


async def test_an_audit_as_json_is_an_array_of_reports(shop: Context, capsys: pytest.CaptureFixture[str]) -> None:
    await corrupt(shop)
    assert await operations.audit(BOTH, None, None, as_json=True)
    [owner, copy] = json.loads(capsys.readouterr().out)
    assert (owner["service"], owner["mode"], owner["changed"]) == ("accounts", "owner", 0)
    assert copy == {
        "service": "shop",
        "share": "cards",
        "mode": "async",
        "checked": 6,
        "changed": 1,
        "missing": 0,
        "invented": 1,
        "repaired": 2,
        "in_flight": 0,
        "keys": ["[bold]ghost", "k1"],
        "failed": "",
    }


async def test_a_share_that_can_not_be_compared_is_told_after_the_others(
    context: Context, shop: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = Engines(shop.log, shop.store, shop.views)
    at_hand(monkeypatch, operations, context, make_context(shop.service, engines, owners={"accounts": NoOwner()}))
    with pytest.raises(ChimeraError, match="1 of 2 could not be compared; the owner is down"):
        await operations.audit(BOTH, None, None)
    assert "shop cards async: the owner is down" in capsys.readouterr().out


async def test_a_share_that_nobody_has_is_told_with_those_that_there_are(shop: Context) -> None:
    with pytest.raises(SettingsError, match=r"neither shares nor borrows 'nothing', nor has a view .*; it has: cards"):
        await operations.audit(BOTH, "shop", "nothing")
    with pytest.raises(SettingsError, match="shop does not borrow 'nothing'; it borrows: cards"):
        await operations.change_mode(BOTH, "shop", "nothing", "sync", wait_s=1)


async def test_a_mode_is_changed_and_said_to_be_in_force_once_it_is(
    context: Context, shop: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    await operations.change_mode(BOTH, "shop", "cards", "sync", wait_s=0)
    assert "shop borrows cards as sync" in capsys.readouterr().out
    with pytest.raises(ChimeraError, match=r"still borrows cards as sync after 0 s.* chimera status"):
        await operations.change_mode(BOTH, "shop", "cards", "hybrid", wait_s=0)
    async with running(WriteHead(shop, "a").run()):
        await operations.change_mode(BOTH, "shop", "cards", "hybrid", wait_s=10)
    assert (await read_mode(shop, shop.service.borrows["cards"])).mode == "hybrid"
    changing = asyncio.ensure_future(operations.change_mode(BOTH, "shop", "cards", "async", wait_s=10))
    await asyncio.sleep(0.01)
    await operations.change_mode(BOTH, "shop", "cards", "sync", wait_s=0)
    with pytest.raises(ChimeraError, match="is to borrow cards as sync: somebody else changed it"):
        await changing
