"""What a source of data yields: requests to the marketplace's public API, and what it had to leave out."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal, Protocol

from msgspec import Struct

Kind = Literal["user", "gig", "client", "order", "stage"]

PHASES: tuple[tuple[Kind, ...], ...] = (("user",), ("gig",), ("client",), ("order", "stage"))
"""Later phases rely on earlier ones. A source yields its requests in this order."""


class Request(Struct, frozen=True):
    """`key` is what requests have to keep their order by."""

    kind: Kind
    service: str
    method: str
    path: str
    key: str
    body: dict[str, Any]


class Skip(Struct, frozen=True):
    """Something in the data that makes no request, and why."""

    kind: Kind
    reason: str


class Source(Protocol):
    """Yields the same requests each time it is asked. `notes` counts what was read and mended on the way."""

    name: str
    notes: Counter[str]

    def total(self) -> int:
        """How many requests and skips there will be."""

    def __iter__(self) -> Iterator[Request | Skip]: ...


def user(user_id: str, name: str, city: str | None, about: str) -> Request:
    body = {"name": name, "about": about} | ({"city": city} if city else {})
    return Request("user", "user-page", "PUT", f"/users/{user_id}", user_id, body)


def gig(gig_id: str, seller_id: str, title: str, category: str, price_cents: int) -> Request:
    body = {"seller_id": seller_id, "title": title, "category": category, "price_cents": price_cents}
    return Request("gig", "gig-page", "PUT", f"/gigs/{gig_id}", gig_id, body)


def client(seller_id: str, client_id: str, name: str, industry: str | None = None) -> Request:
    body = {"client_id": client_id, "name": name} | ({"industry": industry} if industry else {})
    return Request("client", "top-clients", "POST", f"/sellers/{seller_id}/clients", seller_id, body)


def order(order_id: str, buyer_id: str, seller_id: str, gig_id: str, amount_cents: int, at: datetime) -> Request:
    body = {
        "order_id": order_id,
        "buyer_id": buyer_id,
        "seller_id": seller_id,
        "gig_id": gig_id,
        "amount_cents": amount_cents,
        "at": rfc3339(at),
    }
    return Request("order", "orders", "POST", "/orders", order_id, body)


def stage(order_id: str, stage: str, at: datetime | None = None) -> Request:
    body = {"stage": stage} | ({"at": rfc3339(at)} if at else {})
    return Request("stage", "orders", "POST", f"/orders/{order_id}/stage", order_id, body)


def rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
