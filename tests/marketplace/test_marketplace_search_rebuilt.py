"""The search index is built anew while it is searched, on every engine that can keep it."""

from __future__ import annotations

from chimera.ports import Store
from chimera.upkeep.tables.keeping import ask_for_tables, generations_of
from chimera.upkeep.tables.reports import last_table_report
from chimera.upkeep.tables.state import read_generations_of
from marketplace.search.service import search
from tests.marketplace.market import market


async def test_the_index_is_built_anew_beside_the_one_that_serves(store: Store) -> None:
    """What was spoilt in it is told and ended, while the search goes on and follows."""
    async with market(store) as market_place:
        found, name = market_place.found, "index"
        for number in range(30):
            position = await market_place.publish(f"r{number}", f"Rebuilt item{number:05}")
        assert (await market_place.hits.get("/search?q=rebuilt", after=[position])).json["total"] == 30
        async with found.store.transaction() as session:
            await session.execute("UPDATE found_gigs SET price_cents = 77 WHERE gig_id = 'r7'")
            await session.execute("DELETE FROM found_gigs WHERE gig_id = 'r8'")
        await ask_for_tables(found, search.reactions[name])
        plain, number = generations_of(found).plain, 30
        while not await serves(plain, name, 2):
            position = await market_place.publish(f"r{number}", f"Rebuilt item{number:05}")
            page = await market_place.hits.get(f"/search?q=item{number:05}", after=[position])
            assert "chimera-behind" in page.headers or page.json["total"] == 1, page
            number += 1
        page = await market_place.hits.get("/search?q=rebuilt", after=[position])
        assert page.json["total"] == number
        shown = {each["gig_id"]: each["price_cents"] for each in page.json["results"]}
        assert set(shown.values()) == {5}
        report = await last_table_report(plain, name)
        assert report is not None
        if not report.in_flight:
            assert report.missing >= 1
            assert report.new >= 2
        assert (await market_place.hits.get("/search?q=item00008")).json["total"] == 1


async def serves(store: Store, reaction: str, number: int) -> bool:
    state = await read_generations_of(store, reaction)
    return state.serving.number == number and state.building is None and not state.retired
