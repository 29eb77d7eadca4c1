"""Owns gigs; shows each with its seller's top clients from a copy of its own."""

from msgspec.structs import asdict

from chimera import Reader, Reply, Service, Transaction
from marketplace.gig_page.messages import GigPublished, PublishGig
from marketplace.gig_page.model import Gig, GigPage
from marketplace.gig_page.pages import gig_page as render_gig
from marketplace.top_clients.messages import ShownClients, TopClients
from marketplace.types import Id

gig_page = Service("gig-page")
gig_page.entity(Gig)
clients = gig_page.borrow("top-clients", TopClients, mode="async")


@gig_page.handle("PUT /gigs/{gig_id}", direct=True)
async def publish_gig(command: PublishGig, tx: Transaction) -> Reply[Gig]:
    before = await tx.load(Gig, command.gig_id)
    gig = Gig(**asdict(command))
    tx.save(gig)
    tx.emit(GigPublished(**asdict(command), previous_seller_id=before.seller_id if before else None))
    return Reply(gig, 200 if before else 201)


@gig_page.get("/gigs/{gig_id}", page=render_gig)
async def show_gig(gig_id: Id, read: Reader) -> GigPage | None:
    gig = await read.load(Gig, gig_id)
    if gig is None:
        return None
    borrowed = await read.borrowed(clients, gig.seller_id)
    return GigPage(**asdict(gig), top_clients=ShownClients.of(borrowed))
