"""Caller by action for every route of the marketplace, who may not leaving nothing; and what handlers look at again."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from chimera import Caller, Service
from chimera.testing import RunningServices, given, running
from chimera.web.permission.passages import passages
from marketplace.analytics.service import analytics
from marketplace.gig_page.messages import PublishGig
from marketplace.gig_page.model import Gig
from marketplace.gig_page.service import gig_page
from marketplace.orders.messages import MoveOrder, PlaceOrder
from marketplace.orders.model import Order
from marketplace.orders.service import orders
from marketplace.search.service import search
from marketplace.top_clients.service import top_clients
from marketplace.user_page.service import user_page
from tests.marketplace.callers import BUYER, OPERATOR, OTHER_BUYER, OTHER_SELLER, SELLER
from tests.marketplace.test_marketplace_orders import ORDER

SERVICES = (orders, analytics, top_clients, gig_page, user_page, search)
CALLERS: dict[str, Caller | None] = {
    "nobody": None,
    "buyer": BUYER,
    "other buyer": OTHER_BUYER,
    "seller": SELLER,
    "other seller": OTHER_SELLER,
    "operator": OPERATOR,
    "a service": Caller("gig-page", frozenset({"service"})),
}
ALL = frozenset(CALLERS)
KNOWN = ALL - {"nobody"}
HERS = frozenset({"seller", "operator"})
OF_BOTH = frozenset({"buyer", "seller", "operator"})


class Asked(NamedTuple):
    """A request of a route, and who may."""

    path: str
    may: frozenset[str]
    body: dict[str, Any] | None = None


PLACED = {"order_id": "o2", "buyer_id": "b", "seller_id": "s", "gig_id": "g", "amount_cents": 5}
OFFERED = {"seller_id": "s", "title": "Logo", "category": "Design", "price_cents": 5}
ROUTES: dict[str, Asked] = {
    "POST /orders": Asked("/orders", frozenset({"buyer", "operator"}), PLACED),
    "POST /orders/{order_id}/stage": Asked("/orders/o/stage", OF_BOTH, {"stage": "paid"}),
    "GET /orders/{order_id}": Asked("/orders/o", OF_BOTH),
    "GET /sellers/{seller_id}/orders": Asked("/sellers/s/orders?stage=placed", HERS),
    "GET /sellers/{seller_id}/sales": Asked("/sellers/s/sales", HERS),
    "GET /sellers/{seller_id}/sales?by=day": Asked("/sellers/s/sales?by=day", HERS),
    "POST /sellers/{seller_id}/clients": Asked("/sellers/s/clients", HERS, {"name": "Acme"}),
    "DELETE /sellers/{seller_id}/clients/{client_id}": Asked("/sellers/s/clients/c", HERS),
    "GET /sellers/{seller_id}/clients": Asked("/sellers/s/clients", HERS),
    "PUT /gigs/{gig_id}": Asked("/gigs/g", HERS, OFFERED),
    "GET /gigs/{gig_id}": Asked("/gigs/g", ALL),
    "GET /sellers/{seller_id}/gigs": Asked("/sellers/s/gigs?order=-price", ALL),
    "PUT /users/{user_id}": Asked("/users/s", HERS, {"name": "Sam"}),
    "GET /users/{user_id}": Asked("/users/s", ALL),
    "GET /search": Asked("/search?q=logo", ALL),
}
FURTHER: dict[str, Asked] = {
    "PUT /users/{user_id}": Asked("/users/b", frozenset({"buyer", "operator"}), {"name": "Bea"}),
    "PUT /gigs/{gig_id}": Asked("/gigs/g", frozenset({"operator"}), {**OFFERED, "seller_id": "t"}),
    "POST /orders/{order_id}/stage": Asked("/orders/on-its-way/stage", KNOWN, {"stage": "paid"}),
    "GET /orders/{order_id}": Asked("/orders/on-its-way", KNOWN),
}
"""The same routes, where it matters what is asked for."""
REQUESTS = [*ROUTES.items(), *FURTHER.items()]


async def fill(s: RunningServices) -> None:
    placed = await s.post("/orders", {**PLACED, "order_id": "o"}, caller=BUYER)
    assert placed.status_code == 201, placed.text
    for path, body in (("/gigs/g", OFFERED), ("/users/s", {"name": "Sam"}), ("/users/b", {"name": "Bea"})):
        assert (await s.put(path, body, caller=OPERATOR)).status_code == 201
    added = await s.post("/sellers/s/clients", {"client_id": "c", "name": "Acme"}, caller=SELLER)
    assert added.status_code == 201
    await s.settled()


async def kept(s: RunningServices) -> list[Any]:
    """What commands leave behind, of all services."""
    found: list[Any] = []
    for context in s.contexts.values():
        found.append(dict(await context.store.heads()))
        found.append(dict(await context.log.ends(context.commands_topic)))
    return found


@pytest.mark.parametrize(("route", "asked"), REQUESTS, ids=lambda each: each if isinstance(each, str) else each.path)
async def test_who_may_take_which_route(route: str, asked: Asked) -> None:
    async with running(*SERVICES) as s:
        await fill(s)
        for name, caller in sorted(CALLERS.items(), key=lambda each: each[0] in asked.may):
            before = await kept(s)
            answer = await s.ask(route.partition(" ")[0], asked.path, asked.body, caller=caller)
            may = answer.status_code not in (401, 403)
            assert (name, may) == (name, name in asked.may), answer.text
            if may:
                assert answer.status_code < 300 or answer.json()["title"] == "Not Found", answer.text
                continue
            assert answer.status_code == (401 if caller is None else 403)
            assert answer.headers["content-type"] == "application/problem+json"
            assert await kept(s) == before


def test_every_route_of_the_marketplace_is_in_the_table() -> None:
    declared = [passage.route for service in SERVICES for passage in passages(service)]
    assert sorted(declared) == sorted(ROUTES)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_route_has_a_rule(service: Service) -> None:
    assert all(passage.allow is not None for passage in passages(service))


async def test_an_order_that_is_on_its_way_is_moved_by_its_buyer_and_by_no_other() -> None:
    async with running(orders) as s:
        await s.post("/orders", PLACED, caller=BUYER)
        moved = [await s.post("/orders/o2/stage", {"stage": "paid"}, caller=each) for each in (OTHER_BUYER, BUYER)]
        await s.settled()
        assert (await s.get("/orders/o2", caller=BUYER)).json()["stage"] == "paid"
        if moved[0].status_code == 201:  # the rule found no order yet
            command_id = moved[0].json()["command_id"]
            assert (await s.get(f"/_chimera/orders/commands/{command_id}")).json()["reason"] == "forbidden"
        else:
            assert moved[0].status_code == 403


async def test_what_a_rule_has_let_in_too_early_is_refused_by_its_handler() -> None:
    for caller in (OTHER_BUYER, OTHER_SELLER):
        refused = await given(orders, ORDER).when(MoveOrder("o1", "paid"), caller=caller).rejected("forbidden")
        assert refused.status == 403
        assert refused.rows(Order) == [ORDER]
    gig = Gig("g", "s", "Logo", "Design", 5)
    taken_over = given(gig_page, gig).when(PublishGig("g", "t", "Mine", "Design", 0), caller=OTHER_SELLER)
    assert (await taken_over.rejected("forbidden")).rows(Gig) == [gig]


async def test_an_operator_may_move_any_order_and_give_a_gig_to_another_seller() -> None:
    moved = await given(orders, ORDER).when(MoveOrder("o1", "paid"), caller=OPERATOR).tried()
    assert moved.outcome is not None
    assert moved.outcome.state == "done"
    gig = Gig("g", "s", "Logo", "Design", 5)
    given_away = given(gig_page, gig).when(PublishGig("g", "t", "Mine", "Design", 0), caller=OPERATOR)
    assert (await given_away.tried()).rows(Gig) == [Gig("g", "t", "Mine", "Design", 0)]


async def test_anothers_order_is_not_placed_anew() -> None:
    own = PlaceOrder(ORDER.order_id, OTHER_BUYER.subject, "s", "g", 1)
    refused = await given(orders, ORDER).when(own, caller=OTHER_BUYER).rejected("order_exists")
    assert refused.rows(Order) == [ORDER]
