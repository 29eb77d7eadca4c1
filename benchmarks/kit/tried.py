"""A hundred tests of the shop, half of them by `given`, half by `running`; copied to where pytest finds them."""

from __future__ import annotations

import pytest

from benchmarks.kit.shop import STEPS, Changed, Note, Order, Place, Raise, Seen, Step, seen, shop
from chimera.testing import folded, given, running

AMOUNTS = (1, 2, 3, 4, 5)
each_amount = pytest.mark.parametrize("amount", AMOUNTS)
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)


@each_amount
async def test_given_nothing_an_order_is_placed(amount: int) -> None:
    tried = await given(shop).when(Place("o", amount)).then(Changed("o", amount, "placed"))
    assert tried.rows(Order) == [Order("o", amount)]
    assert folded(seen, *tried.events) == {"o": Seen("o", 1, amount, "placed")}


@each_amount
async def test_given_an_order_its_amount_is_raised(amount: int) -> None:
    await given(shop, Order("o", 10)).when(Raise("o", amount)).then(Changed("o", 10 + amount, "placed"))


@each_amount
async def test_given_an_order_a_note_is_kept(amount: int) -> None:
    tried = await given(shop, Order("o", amount)).when(Note("o", "fragile")).tried()
    assert tried.rows(Order) == [Order("o", amount, note="fragile")]


@each_amount
@each_step
async def test_given_an_order_it_moves_on(step: type[Step], amount: int) -> None:
    before, after = STEPS[step]
    await given(shop, Order("o", amount, before)).when(step("o")).then(Changed("o", amount, after))


@each_amount
async def test_running_an_order_is_placed_once(amount: int) -> None:
    async with running(shop) as s:
        for number in (amount, 1_000):
            await s.post("/orders", {"order_id": "o", "amount": number})
        await s.settled()
        assert (await s.get("/seen/o")).json() == {"order_id": "o", "changes": 1, "amount": amount, "stage": "placed"}


@each_amount
async def test_running_an_amount_is_raised(amount: int) -> None:
    async with running(shop) as s:
        await s.post("/orders", {"order_id": "o", "amount": 10})
        await s.settled()
        await s.post("/orders/o/raise", {"amount": amount})
        await s.settled()
        assert (await s.get("/seen/o")).json()["amount"] == 10 + amount


@each_amount
async def test_running_a_note_needs_an_order(amount: int) -> None:
    async with running(shop) as s:
        assert (await s.put(f"/orders/o{amount}/note", {"note": "fragile"})).status_code == 404


@each_amount
@each_step
async def test_running_a_step_is_taken_in_its_stage_alone(step: type[Step], amount: int) -> None:
    async with running(shop) as s:
        await s.post("/orders", {"order_id": "o", "amount": amount})
        await s.settled()
        await s.post(f"/orders/o/{step.__name__.lower()}")
        await s.settled()
        before, after = STEPS[step]
        assert (await s.get("/seen/o")).json()["stage"] == (after if before == "placed" else "placed")
