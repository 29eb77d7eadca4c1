from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from chimera.testing import folded, given, running
from marketplace.gig_page.messages import GigPublished, PublishGig
from marketplace.gig_page.model import Gig
from marketplace.gig_page.service import gig_page
from marketplace.orders.messages import OrderMoved, Stage
from marketplace.orders.service import orders
from marketplace.top_clients.service import top_clients
from marketplace.user_page.messages import ChangeUser, UserChanged
from marketplace.user_page.model import OfferedGig, SellerGigs, User
from marketplace.user_page.service import completed, gigs, user_page
from tests.marketplace.callers import OPERATOR, SELLER

on_every_store = pytest.mark.usefixtures("on_every_store")


def published(gig_id: str, seller_id: str, title: str = "Logo", previous: str | None = None) -> GigPublished:
    return GigPublished(gig_id, seller_id, title, "Design", 500, previous)


@on_every_store
async def test_a_new_gig_is_a_201_and_a_replaced_one_a_200() -> None:
    first = await given(gig_page).when(PublishGig("g", "s", "Logo", "Design", 0)).tried()
    first.emitted(GigPublished("g", "s", "Logo", "Design", 0, None))
    assert first.rows(Gig) == [Gig("g", "s", "Logo", "Design", 0)]
    assert (first.status, first.answer) == (201, msgspec.to_builtins(Gig("g", "s", "Logo", "Design", 0)))
    again = given(gig_page, *first.rows(Gig)).when(PublishGig("g", "t", "Logo", "Design", 5))
    assert (await again.then(GigPublished("g", "t", "Logo", "Design", 5, "s"))).status == 200


@on_every_store
async def test_a_gig_is_shown_whatever_top_clients_is_doing() -> None:
    async with running(gig_page, owners=[top_clients]) as s:
        await s.post("/sellers/s/clients", {"client_id": "c", "name": "Acme"}, caller=SELLER)
        await s.settled()
        with s.owner_down("top-clients"):
            for gig_id, seller_id in (("g", "s"), ("h", "unheard-of")):
                body = {"seller_id": seller_id, "title": "Logo", "category": "Design", "price_cents": 0}
                assert (await s.put(f"/gigs/{gig_id}", body, caller=OPERATOR)).status_code == 201
            known, unknown = [(await s.get(f"/gigs/{gig_id}")).json()["top_clients"] for gig_id in "gh"]
            assert known["clients"] == [{"client_id": "c", "name": "Acme", "industry": None}]
            assert (unknown["state"], unknown["clients"]) == ("absent", [])
            assert (await s.get("/gigs/unknown")).status_code == 404


@on_every_store
async def test_a_changed_name_is_told() -> None:
    changed = await given(user_page, User("s", "Ada")).when(ChangeUser("s", "Ada L.", "Paris")).tried()
    changed.emitted(UserChanged("s", "Ada L.", "Paris"))
    assert changed.rows(User) == [User("s", "Ada L.", "Paris")]


@on_every_store
async def test_a_user_is_shown_with_nothing_yet() -> None:
    async with running(user_page, owners=[top_clients, gig_page, orders]) as s:
        with s.owner_down("top-clients"):
            assert (await s.put("/users/s", {"name": "Ada"}, caller=SELLER)).status_code == 201
            assert (await s.put("/users/s", {"name": "Ada L.", "city": "Paris"}, caller=SELLER)).status_code == 200
            page = (await s.get("/users/s")).json()
            assert (page["name"], page["gigs"], page["completed_orders"]) == ("Ada L.", [], 0)
            assert (page["top_clients"]["state"], page["top_clients"]["clients"]) == ("absent", [])
            assert (await s.get("/users/unknown")).status_code == 404


def gig_ids(found: SellerGigs) -> list[str]:
    return [gig.gig_id for gig in found.gigs]


@pytest.mark.parametrize("first", ["a", "b"])
def test_gigs_are_listed_alike_in_whatever_order_they_come(first: str) -> None:
    events = sorted([published("a", "s"), published("b", "s")], key=lambda event: event.gig_id != first)
    assert gig_ids(folded(gigs, *events)["s"]) == ["a", "b"]


def test_a_changed_gig_replaces_itself() -> None:
    found = folded(gigs, published("g", "s"), published("g", "s", "Better", "s"))
    assert found["s"].gigs == [OfferedGig("g", "Better", "Design", 500)]


def test_a_gig_that_moves_leaves_its_old_seller_and_may_come_back() -> None:
    away, back = published("g", "t", previous="s"), published("g", "s", previous="t")
    assert gig_ids(folded(gigs, published("g", "s"), away)["s"]) == []
    assert gig_ids(folded(gigs, published("g", "s"), away)["t"]) == ["g"]
    assert gig_ids(folded(gigs, published("g", "s"), away, back)["s"]) == ["g"]


def test_only_completed_orders_are_counted() -> None:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    steps: list[tuple[str, Stage, Stage]] = [
        ("o1", "placed", "paid"),
        ("o1", "paid", "completed"),
        ("o2", "placed", "completed"),
        ("o3", "paid", "cancelled"),
    ]
    events = [OrderMoved(order_id, "s", 1, at.date(), before, after, at) for order_id, before, after in steps]
    assert folded(completed, *events)["s"].completed_orders == 2
    assert folded(completed, events[0]) == {}
