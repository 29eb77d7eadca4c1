from datetime import UTC, datetime

import pytest

from chimera import Borrowed, Reply
from marketplace.gig_page.messages import GigPublished, PublishGig
from marketplace.gig_page.model import Gig
from marketplace.gig_page.service import publish_gig, show_gig
from marketplace.orders.messages import OrderMoved
from marketplace.top_clients.messages import ShownClients
from marketplace.user_page.messages import ChangeUser, UserChanged
from marketplace.user_page.model import OfferedGig
from marketplace.user_page.service import change_user, completed, gigs, show_user

ABSENT = Borrowed(None, "absent", None)


class FakeReader:
    """A transaction's rows, no views yet, and an owner who is down."""

    def __init__(self, tx):
        self.load = tx.load

    async def view(self, view, key):
        return view.new(key)

    async def borrowed(self, borrow, key):
        return ABSENT


def published(gig_id, seller_id, title="Logo", previous=None):
    return GigPublished(gig_id, seller_id, title, "Design", 500, previous)


async def test_a_new_gig_is_a_201_and_a_replaced_one_a_200(tx):
    first = await publish_gig(PublishGig("g", "s", "Logo", "Design", 0), tx)
    assert first == Reply(Gig("g", "s", "Logo", "Design", 0), 201)
    assert (await publish_gig(PublishGig("g", "t", "Logo", "Design", 5), tx)).status == 200
    assert [event.previous_seller_id for event in tx.emitted] == [None, "s"]


async def test_a_gig_is_shown_whatever_top_clients_is_doing(tx):
    await publish_gig(PublishGig("g", "s", "Logo", "Design", 0), tx)
    page = await show_gig("g", FakeReader(tx))
    assert page.top_clients == ShownClients("absent", None, [])
    assert await show_gig("unknown", FakeReader(tx)) is None


async def test_a_user_is_shown_with_nothing_yet(tx):
    assert (await change_user(ChangeUser("s", "Ada"), tx)).status == 201
    assert (await change_user(ChangeUser("s", "Ada L.", "Paris"), tx)).status == 200
    assert tx.emitted[-1] == UserChanged("s", "Ada L.", "Paris")
    page = await show_user("s", FakeReader(tx))
    assert (page.name, page.gigs, page.completed_orders, page.top_clients.state) == ("Ada L.", [], 0, "absent")
    assert await show_user("unknown", FakeReader(tx)) is None


@pytest.mark.parametrize("first", ["a", "b"])
def test_gigs_are_listed_alike_in_whatever_order_they_come(folded, first):
    events = sorted([published("a", "s"), published("b", "s")], key=lambda event: event.gig_id != first)
    assert [gig.gig_id for gig in folded(gigs, "s", *events).gigs] == ["a", "b"]


def test_a_changed_gig_replaces_itself(folded):
    found = folded(gigs, "s", published("g", "s"), published("g", "s", "Better", "s"))
    assert found.gigs == [OfferedGig("g", "Better", "Design", 500)]


def test_a_gig_that_moves_leaves_its_old_seller_and_may_come_back(folded):
    away, back = published("g", "t", previous="s"), published("g", "s", previous="t")
    assert folded(gigs, "s", published("g", "s"), away).gigs == []
    assert [gig.gig_id for gig in folded(gigs, "t", published("g", "s"), away).gigs] == ["g"]
    assert [gig.gig_id for gig in folded(gigs, "s", published("g", "s"), away, back).gigs] == ["g"]


def test_only_completed_orders_are_counted(folded):
    at = datetime(2025, 1, 1, tzinfo=UTC)
    steps = [
        ("o1", "placed", "paid"),
        ("o1", "paid", "completed"),
        ("o2", "placed", "completed"),
        ("o3", "paid", "cancelled"),
    ]
    events = [OrderMoved(order_id, "s", 1, at.date(), before, after, at) for order_id, before, after in steps]
    assert folded(completed, "s", *events).completed_orders == 2
    assert folded(completed, "s", events[0]) is None
