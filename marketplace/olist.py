"""The Olist orders as requests: real data, with its dirt, read from csv.gz files."""

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from marketplace.requests import Request, Skip, client, gig, order, stage, user

_STAGES = {"approved": "paid", "shipped": "started", "delivered": "delivered"}
_CANCELLED = ("canceled", "unavailable")


class Sale(NamedTuple):
    """What one order bought from one seller. Its gig is that of the seller's first item."""

    gig_id: str
    amount_cents: int


class Olist:
    """The files of a directory.

    `busy_orders`: from how many orders on a seller has top clients; `top_clients`: how many at most.
    """

    name = "olist"

    def __init__(self, directory: Path, *, busy_orders: int = 20, top_clients: int = 5) -> None:
        self.notes: Counter[str] = Counter()
        self._directory = directory
        self._busy_orders = busy_orders
        self._clients_each = top_clients

    def total(self) -> int:
        clients = sum(len(chosen) for _, chosen in self._top_clients())
        events = sum(count * max(1, len(self._sales[order_id])) for order_id, count in self._event_counts.items())
        cancellations = sum(max(1, len(self._sales[order_id])) for order_id in self._cancelled)
        return len(list(self._rows("sellers"))) + len(self._prices) + clients + events + cancellations

    def __iter__(self) -> Iterator[Request | Skip]:
        self.notes.clear()
        yield from self._users()
        yield from self._gigs()
        for seller_id, chosen in self._top_clients():
            yield from (client(seller_id, buyer_id, f"Customer {buyer_id[:6]}") for buyer_id in chosen)
        yield from self._order_events()

    def _users(self) -> Iterator[Request]:
        for row in self._rows("sellers"):
            city = row["seller_city"].strip()
            if "@" in city or not any(letter.isalpha() for letter in city):
                self.notes["sellers whose city is none, left out"] += 1
                city = ""
            place = ", ".join(filter(None, (city.title(), row["seller_state"])))
            yield user(row["seller_id"], f"Seller {row['seller_id'][:6]}", city.title(), f"Sells from {place}.")

    def _gigs(self) -> Iterator[Request]:
        categories = {row["product_id"]: row["category"] for row in self._rows("products")}
        for (product_id, seller_id), price_cents in self._prices.items():
            category = categories.get(product_id, "")
            if not category:
                self.notes["gigs without a category, called uncategorised"] += 1
                category = "uncategorised"
            title = f"{category.replace('_', ' ').capitalize()} {product_id[:6]}"
            yield gig(f"{product_id}.{seller_id}", seller_id, title, category, price_cents)

    def _top_clients(self) -> Iterator[tuple[str, list[str]]]:
        """The buyers with the largest spend of every seller with many orders."""
        spent: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self._rows("orders"):
            for seller_id, sale in self._sales[row["order_id"]].items():
                spent[seller_id][row["customer_id"]] += sale.amount_cents
        for seller_id, by_buyer in spent.items():
            if len(by_buyer) >= self._busy_orders:
                by_spend = sorted(by_buyer, key=lambda buyer_id: (-by_buyer[buyer_id], buyer_id))
                yield seller_id, by_spend[: self._clients_each]

    def _order_events(self) -> Iterator[Request | Skip]:
        seen: Counter[str] = Counter()
        for row in self._rows("order_events"):
            order_id = row["order_id"]
            self.notes["order events in the file"] += 1
            yield from self._for_each_seller(row, row["event"], datetime.fromisoformat(row["ts"]).replace(tzinfo=UTC))
            seen[order_id] += 1
            if order_id in self._cancelled and seen[order_id] == self._event_counts[order_id]:
                self.notes["order events added for cancellations"] += 1
                yield from self._for_each_seller(row, "cancelled", None)

    def _for_each_seller(self, row: dict[str, str], event: str, at: datetime | None) -> Iterator[Request | Skip]:
        sales = self._sales[row["order_id"]]
        self.notes["order events added for further sellers"] += max(0, len(sales) - 1)
        if set(sales) != set(filter(None, row["seller_ids"].split(";"))):
            self.notes["order events whose sellers differ from the items', which count"] += 1
        if not sales:
            yield Skip("order" if event == "created" else "stage", "no_items")
        for seller_id, sale in sales.items():
            yield self._request(row, event, at, seller_id, sale)

    def _request(
        self, row: dict[str, str], event: str, at: datetime | None, seller_id: str, sale: Sale
    ) -> Request | Skip:
        order_id = f"{row['order_id']}.{seller_id}"
        if sale.amount_cents <= 0:
            return Skip("order" if event == "created" else "stage", "no_amount")
        if event == "created" and at:
            return order(order_id, row["customer_id"], seller_id, sale.gig_id, sale.amount_cents, at)
        reached = "cancelled" if event == "cancelled" else _STAGES.get(event)
        return stage(order_id, reached, at) if reached else Skip("stage", "unknown_event")

    @cached_property
    def _sales(self) -> defaultdict[str, dict[str, Sale]]:
        """By order and seller; the sum of the prices of the seller's items."""
        sales: defaultdict[str, dict[str, Sale]] = defaultdict(dict)
        for row in self._rows("order_items"):
            of_order, seller_id = sales[row["order_id"]], row["seller_id"]
            before = of_order.get(seller_id, Sale(f"{row['product_id']}.{seller_id}", 0))
            of_order[seller_id] = before._replace(amount_cents=before.amount_cents + _cents(row["price"]))
        return sales

    @cached_property
    def _prices(self) -> dict[tuple[str, str], int]:
        """By product and seller: the first price in the file, though the data holds several for some."""
        prices: dict[tuple[str, str], int] = {}
        for row in self._rows("order_items"):
            prices.setdefault((row["product_id"], row["seller_id"]), max(0, _cents(row["price"])))
        return prices

    @cached_property
    def _event_counts(self) -> Counter[str]:
        return Counter(row["order_id"] for row in self._rows("order_events"))

    @cached_property
    def _cancelled(self) -> set[str]:
        return {row["order_id"] for row in self._rows("order_events") if row["final_status"] in _CANCELLED}

    def _rows(self, name: str) -> Iterator[dict[str, str]]:
        with gzip.open(self._directory / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)


def _cents(price: str) -> int:
    return int((Decimal(price) * 100).to_integral_value())
