from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import NamedTuple, get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from chimera import Event
from chimera.testing import folded
from marketplace.analytics.model import DaySales, SellerSales
from marketplace.analytics.service import days, sales
from marketplace.orders.messages import OrderMoved, OrderPlaced, Stage
from marketplace.orders.model import refusal

STAGES: tuple[Stage, ...] = get_args(Stage)
Counts = tuple[int, dict[Stage, int], int]
DAY = date(2025, 1, 1)
AT = datetime(2025, 1, 1, tzinfo=UTC)


class Now(NamedTuple):
    """An order as it is at the end."""

    seller: str
    amount: int
    day: str
    stage: Stage


def placed(order_id: str, amount: int = 100, day: date = DAY, seller: str = "s") -> OrderPlaced:
    return OrderPlaced(order_id, "b", seller, "g", amount, day, AT)


def moved(
    order_id: str, previous: Stage, stage: Stage, amount: int = 100, day: date = DAY, seller: str = "s"
) -> OrderMoved:
    return OrderMoved(order_id, seller, amount, day, previous, stage, AT)


def test_a_seller_without_orders_has_zeros_in_exactly_the_contracts_fields() -> None:
    assert sales.absent == days.absent == "empty"
    assert msgspec.to_builtins(sales.new("s")) == {
        "seller_id": "s",
        "orders": 0,
        "stages": dict.fromkeys(STAGES, 0),
        "revenue_cents": 0,
    }
    assert msgspec.to_builtins(days.new("s")) == {"seller_id": "s", "days": []}


def test_given_two_orders_when_one_is_cancelled_then_only_the_other_counts_as_revenue() -> None:
    moves = [moved("a", "placed", "cancelled", 100), moved("b", "placed", "paid", 250)]
    found = folded(sales, placed("a", 100), placed("b", 250), *moves)["s"]
    assert (found.orders, found.revenue_cents, found.stages.cancelled, found.stages.paid) == (2, 250, 1, 1)


def test_days_are_those_of_placing_oldest_first() -> None:
    later = DAY + timedelta(days=3)
    events = [placed("a", 1, later), placed("b", 2), moved("a", "placed", "paid", 1, later), placed("c", 4, later)]
    found = folded(days, *events)["s"]
    assert [(day.day, day.orders, day.revenue_cents, day.stages.paid) for day in found.days] == [
        ("2025-01-01", 1, 2, 0),
        ("2025-01-04", 2, 5, 1),
    ]


def test_both_dashboards_are_served_at_one_address() -> None:
    assert sales.path == "/sellers/{seller_id}/sales"
    assert days.path == "/sellers/{seller_id}/sales?by=day"


wanted_stages = st.lists(st.sampled_from(STAGES), max_size=6)
histories = st.lists(st.tuples(st.sampled_from("st"), st.integers(1, 9), st.integers(0, 3), wanted_stages), max_size=8)


@given(histories=histories, random=st.randoms(use_true_random=False))
def test_however_orders_interleave_the_dashboard_equals_a_recount(
    histories: list[tuple[str, int, int, list[Stage]]], random: Random
) -> None:
    lives: list[list[Event]] = []
    now: list[Now] = []
    for number, (seller, amount, offset, wanted) in enumerate(histories):
        order_id, day = f"o{number}", DAY + timedelta(days=offset)
        stage: Stage = "placed"
        life: list[Event] = [placed(order_id, amount, day, seller)]
        for step in wanted:
            if refusal(stage, step) is None:
                life.append(moved(order_id, stage, step, amount, day, seller))
                stage = step
        lives.append(life)
        now.append(Now(seller, amount, day.isoformat(), stage))
    events: list[Event] = []
    while any(lives):
        events.append(random.choice([life for life in lives if life]).pop(0))

    totals, by_days = folded(sales, *events), folded(days, *events)
    for seller in "st":
        mine = [order for order in now if order.seller == seller]
        total = totals.get(seller) or sales.new(seller)
        assert _as_counts(total) == _recount(mine)
        by_day: dict[str, list[Now]] = defaultdict(list)
        for order in mine:
            by_day[order.day].append(order)
        document = by_days.get(seller) or days.new(seller)
        assert [(each.day, _as_counts(each)) for each in document.days] == [
            (day, _recount(orders)) for day, orders in sorted(by_day.items())
        ]


def _as_counts(found: SellerSales | DaySales) -> Counts:
    return found.orders, msgspec.to_builtins(found.stages), found.revenue_cents


def _recount(orders: list[Now]) -> Counts:
    stages = {stage: sum(order.stage == stage for order in orders) for stage in STAGES}
    return len(orders), stages, sum(order.amount for order in orders if order.stage != "cancelled")
