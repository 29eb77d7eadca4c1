"""A handler reads views and what is borrowed, as they are by now, and asks owners for many keys at once."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from chimera import Command, Event, Lagging, Transaction, Unavailable
from chimera.borrow.lagging import lagging
from chimera.borrow.modes import want_mode
from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.context import Context
from chimera.core.names import copy_name
from chimera.messages import Message
from chimera.parts import Mode
from chimera.ports import Checkpoint, Document, Move
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually
from tests.borrow.test_reads import Owner
from tests.support import QUICK, TIME, Balance, Bank, Card, Engines, Shop, handled, opened

SIZES = ("a", "b", "c")


class Order(Command, key="order_id"):
    order_id: str
    buyers: list[str]


class Ordered(Event, source="shop", key="order_id"):
    order_id: str
    total: int


class Seen(msgspec.Struct):
    order_id: str
    total: int = 0


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


async def test_a_handler_names_it_and_waits_apart_from_others(engines: Engines) -> None:
    """What it shows is in nobody's way; while the owner is away, the command is tried again and nothing is lost."""
    owner, shop = Owner(), Shop(mode="sync")
    for size, key in enumerate(SIZES, 1):
        owner.put(key, size)
    seen = shop.service.view(Seen, key="order_id")

    @shop.service.handle()
    async def order(command: Order, tx: Transaction, read: Lagging) -> None:
        before = await read.view(seen, command.order_id)
        cards = await read.ask(shop.cards, command.buyers)
        known = await read.borrowed(shop.cards, "a")
        assert known.value
        total = sum(card.balance for card in cards.values()) + (before.total if before else 0)
        tx.emit(Ordered(command.order_id, total))

    @shop.service.on(Ordered)
    async def follow(event: Ordered, tx: Transaction, read: Lagging) -> None:
        assert (await read.borrowed(shop.cards, "a")).value

    timing = msgspec.structs.replace(QUICK, quick_s=0.005)
    context = await opened(shop.service, engines, owners={"accounts": owner}, timing=timing)
    document = Document(seen.name, "o1", b'{"order_id":"o1","total":40}')
    assert await context.views.write(seen.name, [document], [])
    owner.behaviour = 0.02  # longer than a handler may keep others waiting
    message = Message("c1", "shop", "shop.Order", "o1", TIME, b'{"order_id":"o1","buyers":["a","b"]}', 0)
    outcomes = handled(await direct_executor(context).run([Task(message)]))
    assert [each.state for each in outcomes] == ["apart"]
    done = await direct_executor(context).attempt_apart(Task(message))
    assert done.state == "done"
    [event] = [each for each in await everything(context) if each.type == "shop.Ordered"]
    assert msgspec.json.decode(event.data) == {"order_id": "o1", "total": 43}
    owner.behaviour = Unavailable("down")
    failed = await direct_executor(context).attempt_apart(Task(msgspec.structs.replace(message, id="c2")))
    assert (failed.state, failed.status) == ("failed", 503)
    await context.resources.close()


async def everything(context: Context) -> list[Message]:
    """All events of a service."""
    return [each for at in await context.store.heads() for each in await context.store.journal(at, 0, 100)]
