"""Whoever has published a gig finds it, or is told that the search is behind, on every engine that can keep it."""

from __future__ import annotations

import pytest

from chimera.ports import Store
from tests.marketplace.market import market

WRITES = 200


@pytest.mark.timeout(600)
async def test_after_each_write_the_search_has_it_or_says_that_it_lags(store: Store) -> None:
    lagged = 0
    async with market(store) as market_place:
        for number in range(WRITES):
            gig_id, word = f"g{number % 50}", f"word{number}"
            position = await market_place.publish(gig_id, f"Logo {word}", number)
            page = await market_place.hits.get(f"/search?q={word}", after=[position])
            assert page.status == 200, page
            lags = "chimera-behind" in page.headers
            shown = [(each["gig_id"], each["price_cents"]) for each in page.json["results"]]
            assert lags or shown == [(gig_id, number)], (number, page)
            lagged += lags
    assert lagged < WRITES / 2
