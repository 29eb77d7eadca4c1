from msgspec import Struct

from chimera import Entity
from marketplace.gig_page.messages import GigPublished
from marketplace.top_clients.messages import ShownClients


class Gig(Entity, key="gig_id", table="gigs"):
    gig_id: str
    seller_id: str
    title: str
    category: str
    price_cents: int


class GigPage(Struct):
    gig_id: str
    seller_id: str
    title: str
    category: str
    price_cents: int
    top_clients: ShownClients


class OfferedGig(Struct):
    """A gig as its seller's list of gigs shows it."""

    gig_id: str
    seller_id: str = ""
    title: str = ""
    category: str = ""
    price_cents: int = 0


def offer(gig: OfferedGig, event: GigPublished) -> OfferedGig:
    return OfferedGig(gig.gig_id, event.seller_id, event.title, event.category, event.price_cents)
