from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import get_args

import hypothesis
import pytest
from hypothesis import strategies as st

from chimera.testing import given
from marketplace.orders.messages import MoveOrder, OrderMoved, OrderPlaced, PlaceOrder, Stage
from marketplace.orders.model import FINAL, Order, refusal
from marketplace.orders.service import orders

STAGES: tuple[Stage, ...] = get_args(Stage)
AT = datetime(2025, 5, 4, 23, 59, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
PLACE = PlaceOrder("o1", "buyer", "seller", "gig", 1000)
ORDER = Order("o1", "buyer", "seller", "gig", 1000, "placed", AT, AT)
on_every_store = pytest.mark.usefixtures("on_every_store")


def test_the_service_declares_its_routes() -> None:
    assert orders.handlers["PlaceOrder"].location == "/orders/{order_id}"
    assert not any(handler.direct for handler in orders.handlers.values())
    assert list(orders.queries) == ["/orders/{order_id}", "/sellers/{seller_id}/orders"]


@on_every_store
async def test_placing_an_order_keeps_it_and_says_so() -> None:
    placed = OrderPlaced("o1", "buyer", "seller", "gig", 1000, AT.date(), AT)
    tried = await given(orders).when(PLACE, at=AT).then(placed)
    assert tried.rows(Order) == [ORDER]


@on_every_store
async def test_an_order_is_placed_on_its_day_in_utc() -> None:
    at = datetime.fromisoformat("2025-01-31T22:30:00-03:00")
    first = await given(orders).when(PlaceOrder("o1", "b", "s", "g", 1, at)).tried()
    [order] = first.rows(Order)
    assert order.placed_at == datetime(2025, 2, 1, 1, 30, tzinfo=UTC)
    then = await given(orders, order).when(MoveOrder("o1", "paid")).tried()
    placed, moved = *first.events, *then.events
    assert isinstance(placed, OrderPlaced)
    assert isinstance(moved, OrderMoved)
    assert [event.placed_on.isoformat() for event in (placed, moved)] == ["2025-02-01", "2025-02-01"]


@on_every_store
async def test_a_second_order_of_the_same_id_is_refused() -> None:
    refused = await given(orders, ORDER).when(PLACE, at=LATER).rejected("order_exists")
    assert refused.events == []
    assert refused.rows(Order) == [ORDER]


@on_every_store
async def test_an_unknown_order_does_not_move() -> None:
    await given(orders, ORDER).when(MoveOrder("nowhere", "paid")).rejected("order_unknown")


@on_every_store
async def test_a_moved_order_says_where_it_was() -> None:
    moved = OrderMoved("o1", "seller", 1000, AT.date(), "placed", "started", LATER)
    tried = await given(orders, ORDER).when(MoveOrder("o1", "started"), at=LATER).then(moved)
    [order] = tried.rows(Order)
    assert (order.stage, order.placed_at, order.changed_at) == ("started", AT, LATER)


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


@hypothesis.given(st.lists(st.sampled_from(STAGES), max_size=12))
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
