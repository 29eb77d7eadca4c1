from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from chimera.parts import State
from marketplace.analytics.model import DaySales, SellerSales, SellerSalesByDay, Stages
from marketplace.analytics.pages import days_page, sales_page
from marketplace.gig_page.model import GigPage
from marketplace.gig_page.pages import gig_page
from marketplace.orders.model import Order
from marketplace.orders.pages import order_page
from marketplace.rendering import freshness, money, span
from marketplace.search.model import FoundGig, SearchPage
from marketplace.search.pages import search_page
from marketplace.top_clients.messages import ShownClients, TopClient, TopClients
from marketplace.top_clients.pages import clients_page
from marketplace.user_page.model import OfferedGig, UserPage
from marketplace.user_page.pages import user_page

EVIL = "\"><script>alert('1')</script>&"
AT = datetime(2025, 1, 2, 3, 4, tzinfo=UTC)
CLIENTS = ShownClients("stale", 12.0, [TopClient("c", EVIL, EVIL)])
FOUND = FoundGig("g", EVIL, EVIL, 100, "s", EVIL, CLIENTS)

PAGES = {
    "order": order_page(Order("o", "b", "s", "g", 123456, "paid", AT, AT)),
    "sales": sales_page(SellerSales("s", 3, Stages(placed=1, paid=2), 300)),
    "no sales": sales_page(SellerSales("s")),
    "days": days_page(SellerSalesByDay("s", [DaySales("2025-01-02", 1, Stages(placed=1), 5)])),
    "no days": days_page(SellerSalesByDay("s")),
    "clients": clients_page(TopClients("s", [TopClient("c", EVIL, EVIL)])),
    "no clients": clients_page(TopClients("s", [])),
    "gig": gig_page(GigPage("g", "s", EVIL, EVIL, 500, CLIENTS)),
    "user": user_page(UserPage("s", EVIL, EVIL, EVIL, [OfferedGig("g", EVIL, EVIL, 5)], CLIENTS, 7)),
    "search": search_page(SearchPage(EVIL, EVIL, 2, 3, 45, [FOUND])),
    "no results": search_page(SearchPage("", "", 1, 0, 0, [])),
}


class Outline(HTMLParser):
    void = frozenset({"meta", "input", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(name: str) -> None:
    outline = Outline(PAGES[name])
    assert outline.open == []
    tags = [tag for tag, _ in outline.seen]
    assert tags.count("h1") == tags.count("main") == 1
    assert "script" not in tags
    links = [value for _, given in outline.seen for key, value in given.items() if key in ("href", "src", "action")]
    assert all(link and link.startswith(("/", "#")) for link in links)


@pytest.mark.parametrize("name", PAGES)
def test_what_people_wrote_is_escaped(name: str) -> None:
    assert "<script" not in PAGES[name]


def test_pages_lead_from_order_to_seller_to_gig() -> None:
    assert 'href="/sellers/s/sales"' in PAGES["order"]
    assert 'href="/users/s"' in PAGES["sales"]
    assert 'href="/gigs/g"' in PAGES["user"]
    assert 'name="q"' in PAGES["gig"]


def test_money_and_spans_read_naturally() -> None:
    assert [money(cents) for cents in (0, 5, 123456)] == ["0.00", "0.05", "1,234.56"]
    assert [span(seconds) for seconds in (0.2, 12.9, 200, 7300, 200000)] == ["under 1 s", "12 s", "3 min", "2 h", "2 d"]


@pytest.mark.parametrize(
    ("state", "age_s", "clients", "words"),
    [
        ("fresh", 0.0, [TopClient("c", "n")], ""),
        ("stale", 12.0, [TopClient("c", "n")], "as of 12 s ago"),
        ("stale", None, [], "an older copy"),
        ("absent", None, [], "not available right now"),
        ("absent", 0.0, [], "none yet"),
        ("fresh", 0.0, [], "none yet"),
    ],
)
def test_people_are_told_how_far_to_trust_what_is_shown(
    state: State, age_s: float | None, clients: list[TopClient], words: str
) -> None:
    assert freshness(ShownClients(state, age_s, clients)) == words
