from bisect import bisect_left

from msgspec import Struct, field

from chimera import Entity
from marketplace.gig_page.messages import GigPublished
from marketplace.orders.messages import OrderMoved
from marketplace.top_clients.messages import ShownClients


class User(Entity, key="user_id", table="users"):
    user_id: str
    name: str
    city: str | None = None
    about: str | None = None


class OfferedGig(Struct):
    gig_id: str
    title: str
    category: str
    price_cents: int


class SellerGigs(Struct):
    """A seller's gigs, ordered by id whatever order they were published in."""

    seller_id: str
    gigs: list[OfferedGig] = field(default_factory=list)

    def take(self, gig: OfferedGig) -> None:
        self.let_go(gig.gig_id)
        self.gigs.insert(self._place(gig.gig_id), gig)

    def let_go(self, gig_id: str) -> None:
        place = self._place(gig_id)
        if place < len(self.gigs) and self.gigs[place].gig_id == gig_id:
            del self.gigs[place]

    def _place(self, gig_id: str) -> int:
        return bisect_left(self.gigs, gig_id, key=lambda gig: gig.gig_id)


class CompletedOrders(Struct):
    seller_id: str
    completed_orders: int = 0


class UserPage(Struct):
    user_id: str
    name: str
    city: str | None
    about: str | None
    gigs: list[OfferedGig]
    top_clients: ShownClients
    completed_orders: int


def list_gig(listed: SellerGigs, event: GigPublished) -> None:
    if event.seller_id == listed.seller_id:
        listed.take(OfferedGig(event.gig_id, event.title, event.category, event.price_cents))
    else:
        listed.let_go(event.gig_id)


def completing_seller(event: OrderMoved) -> list[str]:
    return [event.seller_id] if event.stage == "completed" else []


def count_completed(completed: CompletedOrders, _: OrderMoved) -> None:
    completed.completed_orders += 1
