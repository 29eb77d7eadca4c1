from __future__ import annotations

from datetime import UTC, datetime

import pytest

from chimera import Reply
from marketplace.gig_page.messages import GigPublished, PublishGig
from marketplace.gig_page.model import Gig
from marketplace.gig_page.service import publish_gig, show_gig
from marketplace.orders.messages import OrderMoved, Stage
from marketplace.top_clients.messages import ShownClients
from marketplace.user_page.messages import ChangeUser, UserChanged
from marketplace.user_page.model import OfferedGig, SellerGigs
from marketplace.user_page.service import change_user, completed, gigs, show_user
from tests.marketplace.fakes import FakeReader, Folded, HandlersTransaction


def published(gig_id: str, seller_id: str, title: str = "Logo", previous: str | None = None) -> GigPublished:
    return GigPublished(gig_id, seller_id, title, "Design", 500, previous)


async def test_a_new_gig_is_a_201_and_a_replaced_one_a_200(tx: HandlersTransaction) -> None:
    first = await publish_gig(PublishGig("g", "s", "Logo", "Design", 0), tx)
    assert first == Reply(Gig("g", "s", "Logo", "Design", 0), 201)
    assert (await publish_gig(PublishGig("g", "t", "Logo", "Design", 5), tx)).status == 200
    assert [event.previous_seller_id for event in tx.emitted if isinstance(event, GigPublished)] == [None, "s"]
    assert len(tx.emitted) == 2


async def test_a_gig_is_shown_whatever_top_clients_is_doing(tx: HandlersTransaction) -> None:
    await publish_gig(PublishGig("g", "s", "Logo", "Design", 0), tx)
    page = await show_gig("g", FakeReader(tx))
    assert page
    assert page.top_clients == ShownClients("absent", None, [])
    assert await show_gig("unknown", FakeReader(tx)) is None


async def test_a_user_is_shown_with_nothing_yet(tx: HandlersTransaction) -> None:
    assert (await change_user(ChangeUser("s", "Ada"), tx)).status == 201
    assert (await change_user(ChangeUser("s", "Ada L.", "Paris"), tx)).status == 200
    assert tx.emitted[-1] == UserChanged("s", "Ada L.", "Paris")
    page = await show_user("s", FakeReader(tx))
    assert page
    assert (page.name, page.gigs, page.completed_orders, page.top_clients.state) == ("Ada L.", [], 0, "absent")
    assert await show_user("unknown", FakeReader(tx)) is None


def gig_ids(found: SellerGigs | None) -> list[str]:
    assert found
    return [gig.gig_id for gig in found.gigs]


@pytest.mark.parametrize("first", ["a", "b"])
def test_gigs_are_listed_alike_in_whatever_order_they_come(folded: Folded, first: str) -> None:
    events = sorted([published("a", "s"), published("b", "s")], key=lambda event: event.gig_id != first)
    assert gig_ids(folded(gigs, "s", *events)) == ["a", "b"]


def test_a_changed_gig_replaces_itself(folded: Folded) -> None:
    found = folded(gigs, "s", published("g", "s"), published("g", "s", "Better", "s"))
    assert found
    assert found.gigs == [OfferedGig("g", "Better", "Design", 500)]


def test_a_gig_that_moves_leaves_its_old_seller_and_may_come_back(folded: Folded) -> None:
    away, back = published("g", "t", previous="s"), published("g", "s", previous="t")
    assert gig_ids(folded(gigs, "s", published("g", "s"), away)) == []
    assert gig_ids(folded(gigs, "t", published("g", "s"), away)) == ["g"]
    assert gig_ids(folded(gigs, "s", published("g", "s"), away, back)) == ["g"]


def test_only_completed_orders_are_counted(folded: Folded) -> None:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    steps: list[tuple[str, Stage, Stage]] = [
        ("o1", "placed", "paid"),
        ("o1", "paid", "completed"),
        ("o2", "placed", "completed"),
        ("o3", "paid", "cancelled"),
    ]
    events = [OrderMoved(order_id, "s", 1, at.date(), before, after, at) for order_id, before, after in steps]
    found = folded(completed, "s", *events)
    assert found
    assert found.completed_orders == 2
    assert folded(completed, "s", events[0]) is None
