from msgspec import Struct

from chimera import Entity
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
