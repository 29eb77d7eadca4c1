"""An owner that was put back: what others still hold of what it lost is told, mended, and proved."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

from chimera import Entity, SettingsError, Transaction
from chimera.cli import recover
from chimera.cli.recover import Wish, wish_of
from chimera.core.context import Context
from chimera.core.tables import KeptEvent
from chimera.messages import Message
from chimera.run.write_head import WriteHead
from chimera.testing.engines import memory_engines
from chimera.testing.memory import MemoryStore
from chimera.testing.waiting import eventually, running
from chimera.upkeep.drift.share_audit import complete
from chimera.upkeep.status import service_status
from chimera.views.generations import serving_name
from tests.support import (
    PARTITIONS,
    Bank,
    Deposit,
    Deposited,
    Shop,
    Thanks,
    all_of,
    at_hand,
    balances,
    direct,
    journal_of,
    message_of,
    opened,
    read_all,
    stored,
)

SETTINGS: Any = SimpleNamespace(services={"accounts": None, "shop": None}, check_service=lambda name: None)
ALL = Wish({"shop.note": None}, {})


class Noted(Entity, key=("account_id", "amount"), table="noted"):
    """How often a deposit was noted."""

    account_id: str
    amount: int
    times: int = 0


class Paid(msgspec.Struct):
    """A view of another service's events."""

    account_id: str
    amounts: list[int] = []


class Town(NamedTuple):
    """A bank that may be put back, and a shop that views, copies and reacts to what it does."""

    bank: Context
    shop: Context

    async def deposit(self, *commands: Deposit | Message) -> None:
        """Deposits of the bank, once all have heard of them."""
        await direct(self.bank, *commands)
        await eventually(self.has_heard)

    async def has_heard(self) -> bool:
        heads = await self.bank.store.heads()
        rows = (await service_status(self.bank))["consumers"] + (await service_status(self.shop))["consumers"]
        return all(row["checkpoint"] == heads[row["partition"]] for row in rows if row["source"] == "accounts")

    async def is_diverged(self) -> bool:
        rows = (await service_status(self.shop))["consumers"]
        return {row["consumer"] for row in rows if row["diverged"]} >= {"note:accounts", "borrow.cards.async", "paid"}

    async def noted(self) -> Counter[tuple[str, int]]:
        return Counter({(row.account_id, row.amount): row.times for row in await all_of(self.shop.store, Noted)})

    async def emitted(self) -> Counter[tuple[str, int]]:
        events = [
            msgspec.json.decode(each.data) for each in await journal_of(self.bank.store) if "Deposited" in each.type
        ]
        return Counter((each["account_id"], each["amount"]) for each in events)

    async def thanked(self) -> dict[str, int]:
        return {row.account_id: row.count for row in await all_of(self.bank.store, Thanks)}

    async def paid(self) -> Counter[tuple[str, int]]:
        documents = (await stored(self.shop.views, await self._serving("paid"))).values()
        return Counter((each["account_id"], amount) for each in documents for amount in each["amounts"])

    async def copied(self) -> dict[str, int]:
        copy = await stored(self.shop.views, "borrow.cards.async")
        return {key: each["balance"] for key, each in copy.items()}

    async def _serving(self, view: str) -> str:
        return await serving_name(self.shop, view)


def _deposit_of(event: Message) -> tuple[str, int]:
    found = msgspec.json.decode(event.data)
    return found["account_id"], found["amount"]


def shop_service() -> Shop:
    shop = Shop(mode="async", partitions=2)
    shop.service.entity(Noted)
    view = shop.service.view(Paid, key="account_id", name="paid")

    @view.on(Deposited)
    def paid(document: Paid, event: Deposited) -> None:
        document.amounts.append(event.amount)

    @shop.service.on(Deposited, start="beginning")
    async def note(event: Deposited, tx: Transaction) -> None:
        known = await tx.load(Noted, event.account_id, event.amount) or Noted(event.account_id, event.amount)
        tx.save(Noted(event.account_id, event.amount, known.times + 1))

    return shop


@pytest.fixture
async def town(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    engines = memory_engines()
    bank = await opened(Bank().service, engines)
    await complete(bank, bank.service.shares["cards"], range(PARTITIONS))
    mine = memory_engines()._replace(log=engines.log)
    shop = await opened(shop_service().service, mine, owners={"accounts": bank.owners["accounts"]})
    at_hand(monkeypatch, recover, bank, shop)
    async with running(WriteHead(bank, "a").run(), WriteHead(shop, "b").run()):
        yield Town(bank, shop)


@asynccontextmanager
async def put_back(town: Town) -> AsyncIterator[None]:
    """What the bank does inside is lost."""
    assert isinstance(town.bank.store, MemoryStore)
    before = town.bank.store.state
    yield
    town.bank.store.state = before


async def lose(town: Town, lost: Sequence[Message]) -> None:
    await town.deposit(*(Deposit(f"k{n}", n) for n in range(1, 7)))
    async with put_back(town):
        await town.deposit(*lost)


def lost_ones() -> list[Message]:
    return [message_of(Deposit(key, amount)) for key, amount in (("k1", 10), ("k1", 10), ("k2", 20), ("new", 30))]


@pytest.mark.parametrize("anew", [0, 2, 9])
async def test_what_an_owner_lost_is_in_no_view_and_no_copy_any_more(
    town: Town, anew: int, capsys: pytest.CaptureFixture[str]
) -> None:
    await lose(town, lost_ones())
    await direct(town.bank, *(Deposit("k1", 100 + n) for n in range(anew)))
    await eventually(town.is_diverged)
    assert not await recover.recover(SETTINGS, "accounts", Wish({}, {}), yes=False, wait_s=9)
    shown = capsys.readouterr().out
    assert "accounts.Deposited of 'k2'" in shown
    assert "held until you say what to keep" in shown
    assert "type: chimera recover accounts --yes --keep shop.note=all" in shown
    assert await town.is_diverged(), "nothing is changed without a word"
    assert await recover.recover(SETTINGS, "accounts", ALL, yes=True, wait_s=9)
    shown = capsys.readouterr().out
    assert "are kept: the same ones are not handled again" in shown
    assert "the copy of cards in shop" in shown
    assert "is what its owner has" in shown
    await eventually(town.has_heard)
    assert await town.thanked() == Counter(key for key, _ in (await town.emitted()).elements()), "it reads its own log"
    assert await town.paid() == await town.emitted()
    assert await town.copied() == await balances(town.bank)
    assert await town.noted() == await town.emitted() + Counter({("k1", 10): 2, ("k2", 20): 1, ("new", 30): 1})
    assert await recover.recover(SETTINGS, "accounts", Wish({}, {}), yes=False, wait_s=9), (
        "there is nothing left to mend"
    )


@pytest.mark.parametrize("keep", ["all", "none", "some"])
async def test_what_is_kept_is_not_handled_again_when_the_same_comes_again(town: Town, keep: str) -> None:
    lost = lost_ones()
    await lose(town, lost)
    positions = [str(each.position) for each in await _events(town) if b"20" in each.data]
    await direct(town.bank, *(Deposit(key, 90) for key in ("k1", "k2", "new")), *lost[:3])
    await eventually(town.is_diverged)
    wish = {"all": ALL, "none": Wish({"shop.note": []}, {}), "some": Wish({"shop.note": positions}, {})}[keep]
    assert await recover.recover(SETTINGS, "accounts", wish, yes=True, wait_s=9)
    await eventually(town.has_heard)
    kept = {"all": Counter({("k1", 10): 2, ("k2", 20): 1}), "none": Counter(), "some": Counter({("k2", 20): 1})}[keep]
    handled = Counter({("k1", 10): 2, ("k2", 20): 1, ("new", 30): 1})
    assert await town.noted() == await town.emitted() + handled - kept
    left = {("new", 30): 1} if keep == "all" else {}
    assert sum(row.times for row in await all_of(town.shop.store, KeptEvent)) == sum(left.values())


async def _events(town: Town) -> list[Message]:
    """All that the log has of the bank."""
    records = await read_all(town.bank.log, "accounts.events", dict.fromkeys(range(PARTITIONS), 0))
    return [record.message for record in records if record.message.type == "accounts.Deposited"]


async def test_a_reaction_is_held_until_it_is_said_what_to_keep(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    await lose(town, lost_ones())
    await eventually(town.is_diverged)
    noted = await town.noted()
    assert not await recover.recover(SETTINGS, "accounts", Wish({}, {}), yes=True, wait_s=9)
    assert "shop.note stands at accounts/" in capsys.readouterr().out
    await direct(town.bank, Deposit("k1", 7))
    await eventually(lambda: _has_paid(town, ("k1", 7)))
    assert await town.noted() == noted
    assert await recover.recover(SETTINGS, "accounts", ALL, yes=True, wait_s=9)
    await eventually(town.has_heard)
    assert await town.noted() == noted + Counter({("k1", 7): 1})


async def _has_paid(town: Town, what: tuple[str, int]) -> bool:
    return (await town.paid())[what] > 0


async def test_one_who_comes_later_reads_nothing_of_what_was_lost(town: Town) -> None:
    await lose(town, lost_ones())
    await direct(town.bank, Deposit("k1", 100))
    await eventually(town.is_diverged)
    assert await recover.recover(SETTINGS, "accounts", ALL, yes=True, wait_s=9)
    engines = memory_engines()._replace(log=town.bank.log)
    late = await opened(shop_service().service, engines, owners={"accounts": town.bank.owners["accounts"]})
    async with running(WriteHead(late, "c").run()):
        await eventually(Town(town.bank, late).has_heard)
        assert await Town(town.bank, late).paid() == await town.emitted() == await Town(town.bank, late).noted()
        assert not [row for row in (await service_status(late))["consumers"] if row["diverged"]]


async def test_where_the_log_was_cut_an_operator_says_where_they_part(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    await lose(town, lost_ones())
    await eventually(town.is_diverged)
    ends = await town.bank.log.ends("accounts.events")
    await town.bank.log.trim("accounts.events", ends)
    heads = await town.bank.store.heads()
    assert not await recover.recover(SETTINGS, "accounts", ALL, yes=True, wait_s=9)
    assert "the log does not have all that was lost" in capsys.readouterr().out
    assert await town.paid() == await town.emitted()
    noted = await town.noted()
    assert await recover.recover(SETTINGS, "accounts", ALL._replace(common=heads), yes=True, wait_s=9)
    await direct(town.bank, Deposit("k1", 7))
    await eventually(town.has_heard)
    assert await town.noted() == noted + Counter({("k1", 7): 1})


async def test_a_journal_that_somebody_has_changed_is_not_proved(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    await town.deposit(Deposit("k1", 1), Deposit("k1", 2), Deposit("k1", 3))
    assert await recover.recover(SETTINGS, "accounts", Wish({}, {}), yes=False, wait_s=9)
    state = town.bank.store.state  # type: ignore[attr-defined]
    partition = next(p for p, head in (await town.bank.store.heads()).items() if head)
    changed = [msgspec.structs.replace(each, data=each.data.replace(b"2", b"5")) for each in state.events[partition]]
    changed_state = msgspec.structs.replace(state, events={**state.events, partition: changed})
    town.bank.store.state = changed_state  # type: ignore[attr-defined]
    assert not await recover.recover(SETTINGS, "accounts", Wish({}, {}), yes=False, wait_s=9)
    assert "is not the one that was chained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keep", "common", "said"),
    [
        (["note"], [], "--keep note: it looks like"),
        (["shop.note=k1"], [], "'k1' is not a position"),
        ([], ["60"], "--common 60: it looks like"),
    ],
)
def test_what_can_not_be_meant_is_told(keep: list[str], common: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        wish_of("accounts", keep, common)


async def test_a_reaction_that_is_not_held_is_told_with_those_that_are(town: Town) -> None:
    with pytest.raises(SettingsError, match=r"--keep shop\.other: .* those that are: none"):
        await recover.recover(SETTINGS, "accounts", wish_of("accounts", ["shop.other=all"], []), yes=True, wait_s=9)
