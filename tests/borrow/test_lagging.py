"""A handler reads views and what is borrowed, as they are by now, and asks owners for many keys at once."""

from __future__ import annotations

import asyncio

import pytest

from chimera import Unavailable
from chimera.borrow.lagging import lagging
from chimera.borrow.modes import want_mode
from chimera.core.names import copy_name
from chimera.parts import Mode
from chimera.ports import Checkpoint, Document, Move
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually
from tests.borrow.test_reads import Owner
from tests.support import Balance, Bank, Card, Shop, opened

SIZES = ("a", "b", "c")


async def test_a_view_is_read_as_it_is_by_now() -> None:
    bank = Bank()
    context = await opened(bank.service, memory_engines())
    async with lagging(context) as read:
        assert await read.view(bank.balance, "a") is None
        total = await read.view(bank.total, "all")
        assert total
        assert total.total == 0
        document = Document(bank.balance.name, "a", b'{"account_id":"a","balance":7}')
        assert await context.views.write(bank.balance.name, [document], [])
        assert await read.view(bank.balance, "a") == Balance("a", 7)


@pytest.mark.parametrize("mode", ["sync", "hybrid", "async"])
async def test_what_is_borrowed_is_read_in_the_mode_in_force(mode: Mode) -> None:
    """Without a read head; whatever the owner does, it never raises."""
    owner, shop = Owner(), Shop(mode=mode)
    owner.put("a", 5)
    context = await opened(shop.service, memory_engines(), owners={"accounts": owner})
    copied = Document(copy_name("cards", mode), "a", owner.documents["a"] if mode == "async" else b"{}")
    assert await context.views.write(copied.view, [copied], [Move("accounts", 0, 0, Checkpoint(1))])
    async with lagging(context) as read:
        assert (await read.borrowed(shop.cards, "a")).value == Card("a", 5)
        found = await read.borrowed_many(shop.cards, ["a", "nobody", "a"])
        assert {key: each.value for key, each in found.items()} == {"a": Card("a", 5), "nobody": None}
        owner.behaviour = Unavailable("down")
        assert (await read.borrowed(shop.cards, "a")).value == Card("a", 5)


async def test_a_mode_that_changes_is_followed() -> None:
    owner, shop = Owner(), Shop(mode="async")
    context = await opened(shop.service, memory_engines(), owners={"accounts": owner})
    async with lagging(context) as read:
        await read.borrowed(shop.cards, "a")
        before = len(asyncio.all_tasks())
        await want_mode(context, shop.cards, "sync")
        await eventually(lambda: read._borrows["cards"].mode == "sync")
    assert len(asyncio.all_tasks()) < before


async def test_an_owner_is_asked_for_many_keys_in_one_call_whatever_the_mode() -> None:
    """Also where a copy has others; an owner that does not answer fails whoever asks."""
    owner, shop = Owner(), Shop(mode="async")
    for size, key in enumerate(SIZES):
        owner.put(key, size)
    context = await opened(shop.service, memory_engines(), owners={"accounts": owner})
    async with lagging(context) as read:
        found = await read.ask(shop.cards, [*SIZES, "nobody", "a"])
        assert found == {key: Card(key, size) for size, key in enumerate(SIZES)}
        assert owner.calls == [[*SIZES, "nobody"]]
        owner.behaviour = Unavailable("down")
        with pytest.raises(Unavailable, match="down"):
            await read.ask(shop.cards, ["a"])
