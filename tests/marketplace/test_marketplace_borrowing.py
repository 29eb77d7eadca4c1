"""What the pages' top clients cost: calls to their owner, counted, and time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chimera.borrow.fetch import CALLS
from chimera.core.context import Context
from chimera.messages import Message
from chimera.parts import Mode
from chimera.ports import BucketDigest, ConsumerAt, Document, Entry, Epoch, Fetched
from chimera.run.engines import load_service, opened
from chimera.run.hosting import stop_all
from chimera.run.serving import listening
from chimera.run.settings import read_settings
from chimera.run.write_head import WriteHead
from chimera.testing.broken import WrappedViews
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually
from chimera.web.permission.asking import CALLER
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from chimera_faults.fleet import free_ports
from marketplace.user_page.service import user_page
from tests import support
from tests.marketplace.callers import OPERATOR
from tests.support import Engines
from tests.web.served import CONFIG

SELLERS = 12
WITH_CLIENTS = (0, 3, 7)
GIGS = 25
PATIENT_S = 30.0  # what is counted here must not depend on how busy the machine is


class Application:
    """A site, asked without a socket: requests that are made in one loop turn arrive in one loop turn."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that it answers; fails when it refuses."""
        path, _, query = path.partition("?")
        answer: list[dict[str, Any]] = []
        scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "query_string": query.encode()}
        scope |= {"headers": [], CALLER: OPERATOR}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(body).encode() if body else b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            answer.append(message)

        await self._site(scope, receive, send)  # type: ignore[arg-type]
        content = b"".join(part.get("body", b"") for part in answer)
        assert answer[0]["status"] < 300, content
        return json.loads(content)


class Market(Application):
    """The marketplace with both heads of every service; owners are called over HTTP."""

    def __init__(self, site: Site, contexts: Sequence[Context]) -> None:
        super().__init__(site)
        self._metrics = contexts[0].metrics

    def owner_calls(self, service: str) -> int:
        """What this service has asked of the owner of top clients so far."""
        families = text_string_to_metric_families(self._metrics.exposition().decode())
        return sum(
            int(sample.value)
            for family in families
            for sample in family.samples
            if sample.name == "chimera_owner_calls_total" and sample.labels["service"] == service
        )

    async def fill(self) -> None:
        for seller in WITH_CLIENTS:
            await self.ask("POST", f"/sellers/seller-{seller}/clients", {"client_id": "acme", "name": "Acme"})
        for gig in range(GIGS):
            said = {"title": f"Logo {gig}", "category": "design", "price_cents": 500}
            await self.ask("PUT", f"/gigs/gig-{gig}", {"seller_id": f"seller-{gig % SELLERS}", **said})
        await self.ask("PUT", "/gigs/odd", {"seller_id": "newcomer", "title": "Odd", "category": "x", "price_cents": 1})


@asynccontextmanager
async def market(state: Path, service: str, mode: Mode) -> AsyncIterator[Market]:
    """A filled marketplace in which a service borrows in this mode, and has caught up."""
    settings = read_settings(CONFIG, {}, {"state": str(state), "port": free_ports(), "fleet": {"keys": ["k" * 32]}})
    settings.services[service].borrows = {"top-clients": mode}
    borrow = load_service(settings.services[service].app).borrows["top-clients"]
    async with opened(settings, list(settings.services), fleet=False) as contexts, AsyncExitStack() as stack:
        stack.enter_context(patch.object(borrow, "budget", PATIENT_S))
        heads = [ReadHead(context) for context in contexts]
        for head in heads:
            await head.start()
            stack.push_async_callback(head.stop)
        site = Site(heads)
        await stack.enter_async_context(listening(site, settings.host, settings.port))
        works = [asyncio.ensure_future(WriteHead(context, "tests").run()) for context in contexts]
        stack.push_async_callback(stop_all, works)
        market = Market(site, contexts)
        await market.fill()
        await eventually(lambda: _is_complete(market))
        yield market


async def _is_complete(market: Market) -> bool:
    """Whether the index has every gig, and each seller's clients are known to be there or not."""
    pages = [await market.ask("GET", f"/search?page={page}") for page in (1, 2)]
    pages.append(await market.ask("GET", "/gigs/gig-0"))
    shown = [found["top_clients"] for page in pages for found in page.get("results", [page])]
    fresh = sum(clients["state"] == "fresh" for clients in shown)
    expected = sum(gig % SELLERS in WITH_CLIENTS for gig in range(GIGS)) + 1
    return pages[0]["total"] == GIGS + 1 and fresh == expected and all(each["age_s"] is not None for each in shown)


@pytest.mark.parametrize(("mode", "calls"), [("sync", 1), ("hybrid", 1), ("async", 0)])
async def test_a_page_of_search_results_costs_at_most_one_owner_call(tmp_path: Path, mode: Mode, calls: int) -> None:
    async with market(tmp_path, "search", mode) as shop:
        costs = list[int]()
        for _ in range(5):  # on a starved machine what is kept grows old, and is asked for again: not each time
            before = shop.owner_calls("search")
            page = await shop.ask("GET", "/search?q=logo")
            costs.append(shop.owner_calls("search") - before)
        assert min(costs) == calls
        results = page["results"]
        assert len(results) == 20
        sellers = {found["seller_id"] for found in results}
        assert len(sellers) >= SELLERS - 2  # which five of the 25 are on the next page is the order in which they came
        shown = {found["seller_id"] for found in results if found["top_clients"]["clients"]}
        assert shown == sellers & {f"seller-{seller}" for seller in WITH_CLIENTS}


async def test_in_hybrid_mode_a_page_of_sellers_without_top_clients_costs_no_owner_call(tmp_path: Path) -> None:
    async with market(tmp_path, "search", "hybrid") as shop:
        before = shop.owner_calls("search")
        page = await shop.ask("GET", "/search?q=odd")
        [clients] = [found["top_clients"] for found in page["results"]]
        assert clients["state"] == "absent"
        assert clients["age_s"] is not None
        assert shop.owner_calls("search") == before


async def test_pages_that_are_read_at_the_same_time_share_owner_calls(tmp_path: Path) -> None:
    async with market(tmp_path, "search", "sync") as shop:
        before = shop.owner_calls("search")
        pages = await asyncio.gather(*(shop.ask("GET", f"/search?q=logo&page={1 + at % 2}") for at in range(50)))
        assert all(found["top_clients"]["age_s"] == 0.0 for page in pages for found in page["results"])
        assert 1 <= shop.owner_calls("search") - before <= CALLS


async def test_pages_of_different_gigs_that_are_read_at_the_same_time_share_owner_calls(tmp_path: Path) -> None:
    async with market(tmp_path, "gig-page", "sync") as shop:
        before = shop.owner_calls("gig-page")
        pages = await asyncio.gather(*(shop.ask("GET", f"/gigs/gig-{gig}") for gig in range(GIGS)))
        assert all(page["top_clients"]["age_s"] == 0.0 for page in pages)
        assert 1 <= shop.owner_calls("gig-page") - before <= CALLS


class Awaited:
    """An owner, and documents of views: when told to, each answers once the other is asked as well."""

    def __init__(self) -> None:
        self.wait = False
        self._owner_asked, self._views_asked = asyncio.Event(), asyncio.Event()

    async def _met(self, own: asyncio.Event, other: asyncio.Event) -> None:
        if self.wait:
            own.set()
            await other.wait()

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        await self._met(self._owner_asked, self._views_asked)
        return Fetched({key: json.dumps({"seller_id": key, "clients": []}).encode() for key in keys})

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return []

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        return {}

    async def epochs(self) -> Sequence[Epoch]:
        return []

    async def heads(self) -> Mapping[int, int]:
        return {}

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        return {}

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        return {}

    async def report(self, consumers: Sequence[ConsumerAt]) -> None: ...

    async def close(self) -> None: ...

    def views(self, engines: Engines) -> WrappedViews:
        awaited = self

        class Views(WrappedViews):
            async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
                if not view.startswith("chimera."):
                    await awaited._met(awaited._views_asked, awaited._owner_asked)
                return await super().get(view, keys)

        return Views(engines.views)


async def test_a_page_waits_for_its_owner_and_for_its_own_reads_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_page.borrows["top-clients"], "budget", PATIENT_S)
    awaited, engines = Awaited(), memory_engines()
    engines = engines._replace(views=awaited.views(engines))
    context = await support.opened(user_page, engines, owners={"top-clients": awaited}, modes={"top-clients": "sync"})
    head = ReadHead(context)
    page = Application(Site([head]))
    await page.ask("PUT", "/users/ann", {"name": "Ann"})
    awaited.wait = True
    async with asyncio.timeout(60):
        shown = await page.ask("GET", "/users/ann")
    assert shown["top_clients"]["state"] == "fresh"
    await head.stop()
    await context.owners.close()
