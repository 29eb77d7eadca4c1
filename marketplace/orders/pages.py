from marketplace.orders.model import Order
from marketplace.rendering import render


def order_page(order: Order) -> str:
    return render("order.html", order=order)
