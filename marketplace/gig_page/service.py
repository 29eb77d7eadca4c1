"""Owns gigs; shows each with its seller's top clients from a copy of its own."""

from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import asdict

from chimera import Caller, ListPage, Reader, Reply, Service, Transaction, anyone, owner_of, rule
from marketplace.callers import look_again, operator
from marketplace.gig_page.messages import GigPublished, PublishGig
from marketplace.gig_page.model import Gig, GigPage, OfferedGig, offer
from marketplace.gig_page.pages import gig_page as render_gig
from marketplace.top_clients.messages import ShownClients, TopClients
from marketplace.types import Id

gig_page = Service("gig-page")
gig_page.entity(Gig)
clients = gig_page.borrow("top-clients", TopClients, mode="async")

offered = gig_page.view(OfferedGig, key="gig_id")
offered.on(GigPublished)(offer)
by_title = offered.list("by-title", where="seller_id", order="title")
by_price = offered.list("by-price", where="seller_id", order="price_cents")
dearest = offered.list("dearest", where="seller_id", order="-price_cents")
ORDERS = {"title": by_title, "price": by_price, "-price": dearest}


@rule
async def no_others(gig_id: str, caller: Caller, read: Reader) -> bool:
    """A gig that nobody has, or one of her own."""
    gig = await read.load(Gig, gig_id)
    return gig is None or gig.seller_id == caller.subject


@gig_page.handle("PUT /gigs/{gig_id}", direct=True, allow=(owner_of("seller_id") & no_others) | operator)
async def publish_gig(command: PublishGig, tx: Transaction, caller: Caller | None) -> Reply[Gig]:
    before = await tx.load(Gig, command.gig_id)
    if before is not None:
        look_again(caller, before.seller_id)
    gig = Gig(**asdict(command))
    tx.save(gig)
    tx.emit(GigPublished(**asdict(command), previous_seller_id=before.seller_id if before else None))
    return Reply(gig, 200 if before else 201)


@gig_page.get("/gigs/{gig_id}", page=render_gig, allow=anyone)
async def show_gig(gig_id: Id, read: Reader) -> GigPage | None:
    gig = await read.load(Gig, gig_id)
    if gig is None:
        return None
    borrowed = await read.borrowed(clients, gig.seller_id)
    return GigPage(**asdict(gig), top_clients=ShownClients.of(borrowed))


@gig_page.get("/sellers/{seller_id}/gigs", allow=anyone)
async def list_gigs(
    seller_id: Id,
    read: Reader,
    order: Literal["title", "price", "-price"] = "title",
    limit: Annotated[int, Meta(ge=1, le=200)] = 20,
    after: str = "",
) -> ListPage[OfferedGig]:
    """The gigs that a seller offers, by title or by price; a page at a time."""
    return await read.list(ORDERS[order], seller_id, limit=limit, after=after)
