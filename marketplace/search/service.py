"""Owns nothing: finds gigs in an index of its own, asks for the top clients of a whole page in one call."""

from typing import Annotated

from msgspec import Meta

from chimera import Reader, Service, anyone
from marketplace.gig_page.messages import GigPublished
from marketplace.search.index import NUMBERED, SCHEMA, TABLES, find_gigs, index
from marketplace.search.model import PAGE_SIZE, FoundGig, SearchPage
from marketplace.search.pages import search_page
from marketplace.top_clients.messages import ShownClients, TopClients
from marketplace.user_page.messages import UserChanged

Words = Annotated[str, Meta(max_length=200)]
PageNumber = Annotated[int, Meta(ge=1, le=1000)]

search = Service("search")
search.schema(SCHEMA)
search.project(GigPublished, UserChanged, tables=TABLES, compared=[name for name in TABLES if name not in NUMBERED])(
    index
)
clients = search.borrow("top-clients", TopClients, mode="sync")


@search.get("/search", page=search_page, allow=anyone)
async def find(read: Reader, q: Words = "", category: Words = "", page: PageNumber = 1) -> SearchPage:
    total, hits = await find_gigs(read, q, category, page)
    borrowed = await read.borrowed_many(clients, list(dict.fromkeys(hit.seller_id for hit in hits)))
    return SearchPage(
        q=q,
        category=category,
        page=page,
        pages=-(-total // PAGE_SIZE),
        total=total,
        results=[FoundGig(*hit, top_clients=ShownClients.of(borrowed[hit.seller_id])) for hit in hits],
    )
