"""The seller's "Manage Sales" dashboard: views over the orders' events, O(1) to read."""

from chimera import Service, owner_of
from marketplace.analytics.model import SellerSales, SellerSalesByDay, count_moved, count_placed
from marketplace.analytics.pages import days_page, sales_page
from marketplace.callers import operator
from marketplace.orders.messages import OrderMoved, OrderPlaced

analytics = Service("analytics")

hers = owner_of("seller_id") | operator

sales = analytics.view(
    SellerSales, key="seller_id", path="/sellers/{seller_id}/sales", absent="empty", page=sales_page, allow=hers
)
days = analytics.view(
    SellerSalesByDay,
    key="seller_id",
    path="/sellers/{seller_id}/sales?by=day",
    absent="empty",
    page=days_page,
    allow=hers,
)

sales.on(OrderPlaced)(count_placed)
sales.on(OrderMoved)(count_moved)


@days.on(OrderPlaced)
def placed_on_day(by_day: SellerSalesByDay, event: OrderPlaced) -> None:
    count_placed(by_day.of(event.placed_on.isoformat()), event)


@days.on(OrderMoved)
def moved_on_day(by_day: SellerSalesByDay, event: OrderMoved) -> None:
    count_moved(by_day.of(event.placed_on.isoformat()), event)
