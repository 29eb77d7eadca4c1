from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera import Rejected
from marketplace.orders.messages import MoveOrder, OrderMoved, OrderPlaced, PlaceOrder, Stage
from marketplace.orders.model import FINAL, Order, refusal
from marketplace.orders.service import move_order, orders, place_order
from tests.marketplace.fakes import HandlersTransaction

STAGES: tuple[Stage, ...] = get_args(Stage)
PLACE = PlaceOrder("o1", "buyer", "seller", "gig", 1000)


def test_the_service_declares_its_routes() -> None:
    assert orders.handlers["PlaceOrder"].location == "/orders/{order_id}"
    assert not any(handler.direct for handler in orders.handlers.values())
    assert list(orders.queries) == ["/orders/{order_id}", "/sellers/{seller_id}/orders"]


async def test_placing_an_order_keeps_it_and_says_so(tx: HandlersTransaction) -> None:
    await place_order(PLACE, tx)
    assert await tx.load(Order, "o1") == Order("o1", "buyer", "seller", "gig", 1000, "placed", tx.now, tx.now)
    assert tx.emitted == [OrderPlaced("o1", "buyer", "seller", "gig", 1000, tx.now.date(), tx.now)]


async def test_an_order_is_placed_on_its_day_in_utc(tx: HandlersTransaction) -> None:
    at = datetime.fromisoformat("2025-01-31T22:30:00-03:00")
    await place_order(PlaceOrder("o1", "b", "s", "g", 1, at), tx)
    await move_order(MoveOrder("o1", "paid"), tx)
    placed, moved = tx.emitted
    assert isinstance(placed, OrderPlaced)
    assert isinstance(moved, OrderMoved)
    assert [event.placed_on.isoformat() for event in (placed, moved)] == ["2025-02-01", "2025-02-01"]
    order = await tx.load(Order, "o1")
    assert order
    assert order.placed_at == datetime(2025, 2, 1, 1, 30, tzinfo=UTC)


async def test_a_second_order_of_the_same_id_is_refused(tx: HandlersTransaction) -> None:
    await place_order(PLACE, tx)
    with pytest.raises(Rejected) as refused:
        await place_order(PLACE, tx)
    assert refused.value.reason == "order_exists"
    assert len(tx.emitted) == 1


async def test_an_unknown_order_does_not_move(tx: HandlersTransaction) -> None:
    with pytest.raises(Rejected) as refused:
        await move_order(MoveOrder("nowhere", "paid"), tx)
    assert refused.value.reason == "order_unknown"


async def test_a_moved_order_says_where_it_was(tx: HandlersTransaction) -> None:
    await place_order(PLACE, tx)
    await move_order(MoveOrder("o1", "started"), tx)
    moved = tx.emitted[-1]
    assert isinstance(moved, OrderMoved)
    assert (moved.previous, moved.stage, moved.seller_id, moved.amount_cents) == ("placed", "started", "seller", 1000)


@pytest.mark.parametrize(
    ("current", "wanted", "reason"),
    [
        ("paid", "paid", "stage_repeated"),
        ("delivered", "paid", "stage_backwards"),
        ("paid", "placed", "stage_backwards"),
        ("completed", "cancelled", "order_final"),
        ("cancelled", "paid", "order_final"),
        ("completed", "delivered", "order_final"),
        ("completed", "completed", "stage_repeated"),
    ],
)
def test_a_refused_move_has_its_reason(current: Stage, wanted: Stage, reason: str) -> None:
    refused = refusal(current, wanted)
    assert refused
    assert refused[0] == reason


@pytest.mark.parametrize(
    ("current", "wanted"),
    [
        ("placed", "paid"),
        ("placed", "completed"),
        ("paid", "delivered"),
        ("placed", "cancelled"),
        ("delivered", "cancelled"),
    ],
)
def test_stages_may_be_skipped_forward_and_cancelled_before_completed(current: Stage, wanted: Stage) -> None:
    assert refusal(current, wanted) is None


@given(st.lists(st.sampled_from(STAGES), max_size=12))
def test_whatever_is_asked_an_order_only_goes_forward(wanted: list[Stage]) -> None:
    way: list[Stage] = ["placed"]
    reasons: Counter[str] = Counter()
    for stage in wanted:
        refused = refusal(way[-1], stage)
        if refused:
            reasons[refused[0]] += 1
        else:
            way.append(stage)
    ranks = [STAGES.index(stage) for stage in way]
    assert ranks == sorted(set(ranks))
    assert not FINAL & set(way[:-1])
    assert len(way) - 1 + reasons.total() == len(wanted)
    assert set(reasons) <= {"stage_repeated", "stage_backwards", "order_final"}
