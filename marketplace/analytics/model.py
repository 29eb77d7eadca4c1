"""The seller's dashboard: counts that add up in whatever order the orders' events arrive."""

from bisect import bisect_left

from msgspec import Struct, field

from marketplace.orders.messages import OrderMoved, OrderPlaced, Stage
from marketplace.types import Id


class Stages(Struct):
    placed: int = 0
    paid: int = 0
    started: int = 0
    delivered: int = 0
    completed: int = 0
    cancelled: int = 0

    def add(self, stage: Stage, count: int) -> None:
        setattr(self, stage, getattr(self, stage) + count)


class SellerSales(Struct):
    """`stages` counts orders by the stage they are in now; `revenue_cents` sums those not cancelled."""

    seller_id: Id
    orders: int = 0
    stages: Stages = field(default_factory=Stages)
    revenue_cents: int = 0


class DaySales(Struct):
    day: str
    orders: int = 0
    stages: Stages = field(default_factory=Stages)
    revenue_cents: int = 0


class SellerSalesByDay(Struct):
    """The same, by the UTC day on which the orders were placed, oldest first."""

    seller_id: Id
    days: list[DaySales] = field(default_factory=list)

    def of(self, day: str) -> DaySales:
        place = bisect_left(self.days, day, key=lambda sales: sales.day)
        if place == len(self.days) or self.days[place].day != day:
            self.days.insert(place, DaySales(day))
        return self.days[place]


def count_placed(sales: SellerSales | DaySales, event: OrderPlaced) -> None:
    sales.orders += 1
    sales.stages.placed += 1
    sales.revenue_cents += event.amount_cents


def count_moved(sales: SellerSales | DaySales, event: OrderMoved) -> None:
    sales.stages.add(event.previous, -1)
    sales.stages.add(event.stage, +1)
    if event.stage == "cancelled":
        sales.revenue_cents -= event.amount_cents
