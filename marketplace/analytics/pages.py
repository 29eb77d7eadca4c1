from msgspec.structs import asdict

from marketplace.analytics.model import SellerSales, SellerSalesByDay
from marketplace.rendering import render


def sales_page(sales: SellerSales) -> str:
    return render("sales.html", sales=sales, stages=asdict(sales.stages))


def days_page(by_day: SellerSalesByDay) -> str:
    busiest = max((day.orders for day in by_day.days), default=0)
    return render("sales_by_day.html", seller_id=by_day.seller_id, days=by_day.days, busiest=busiest)
