"""Whoever has published a gig finds it, or is told that the search is behind, on every engine that can keep it."""

from __future__ import annotations

from typing import Any

from chimera.ports import Store
from chimera.share.owner import OwnStore
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import running
from marketplace.gig_page.service import gig_page
from marketplace.search.service import search
from tests.support import QUICK, Engines, NoOwner, opened
from tests.views.blog import Reading, head

WRITES = 200


async def test_after_each_write_the_search_has_it_or_says_that_it_lags(store: Store) -> None:
    nobody, engines = NoOwner(), memory_engines()
    published = await opened(gig_page, engines, owners={"top-clients": nobody}, timing=QUICK)
    owners: dict[str, Any] = {"gig-page": OwnStore(gig_page, published.store, published.clock), "top-clients": nobody}
    owners["user-page"] = nobody
    found = await opened(search, Engines(engines.log, store, memory_engines().views), owners=owners, timing=QUICK)
    gigs, hits = Reading(published), Reading(found)
    lagged = 0
    async with running(head(published).run(), head(found).run()):
        for number in range(WRITES):
            gig_id, word = f"g{number % 50}", f"word{number}"
            body = {"seller_id": "s", "title": f"Logo {word}", "category": "Design", "price_cents": number}
            answer = await gigs.ask("PUT", f"/gigs/{gig_id}", body)
            assert answer.status in (200, 201), answer
            page = await hits.get(f"/search?q={word}", after=[answer.headers["chimera-position"]])
            assert page.status == 200, page
            lags = "chimera-behind" in page.headers
            shown = [(each["gig_id"], each["price_cents"]) for each in page.json["results"]]
            assert lags or shown == [(gig_id, number)], (number, page)
            lagged += lags
    assert lagged < WRITES / 4
