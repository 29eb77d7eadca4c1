"""The services that the marketplace's search is of, with their heads at work, on a store of the search's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from chimera.core.context import Context
from chimera.ports import Store
from chimera.share.owner import OwnStore
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import running
from marketplace.gig_page.service import gig_page
from marketplace.search.service import search
from marketplace.user_page.service import user_page
from tests.marketplace.callers import OPERATOR
from tests.support import Engines, NoOwner, opened
from tests.views.blog import TIMING, Reading, head

OTHERS = ("orders", "analytics", "top-clients", "gig-page")


class Market:
    """The services that the search is of, with their heads at work inside the block."""

    def __init__(self, published: Context, found: Context) -> None:
        self.published = published
        self.found = found
        self.gigs, self.hits = Reading(published, OPERATOR), Reading(found)

    async def publish(self, gig_id: str, title: str, price_cents: int = 5) -> str:
        """Publish a gig; where that went."""
        body = {"seller_id": "s", "title": title, "category": "Design", "price_cents": price_cents}
        answer = await self.gigs.ask("PUT", f"/gigs/{gig_id}", body)
        assert answer.status in (200, 201), answer
        return answer.headers["chimera-position"]


@asynccontextmanager
async def market(store: Store) -> AsyncIterator[Market]:
    nobody, engines = NoOwner(), memory_engines()
    published = await opened(gig_page, engines, owners={"top-clients": nobody}, timing=TIMING)
    owners: dict[str, Any] = {"gig-page": OwnStore(gig_page, published.store, published.clock, published.resources)}
    users = await opened(user_page, memory_engines()._replace(log=engines.log), owners=dict.fromkeys(OTHERS, nobody))
    owners |= {"top-clients": nobody, "user-page": OwnStore(user_page, users.store, users.clock, users.resources)}
    found = await opened(search, Engines(engines.log, store, memory_engines().views), owners=owners, timing=TIMING)
    async with running(head(published).run(), head(found).run()):
        yield Market(published, found)
