"""Caller by action for every route that Chimera adds: strangers, services of the fleet, operators, this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from msgspec import Struct

from chimera import Caller, Event, Reads, Rejected, Request, Service
from chimera.core.context import Reach
from chimera.run.engines import context_of
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.web.permission.tokens import bearing
from chimera.web.probes import Probes
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from tests.support import NoOwner

KEY, OPERATORS_KEY = "f" * 32, "o" * 32
SET = Reach(is_open=False, fleet=(KEY,), operators=(OPERATORS_KEY,))


class Offer(Struct):
    name: str = ""


class OfferChanged(Event, source="shop", key="offer_id"):
    offer_id: str


def shop_service(*, knows: bool = True) -> Service:
    shop = Service("shop", partitions=2)
    shop.borrow("fees", Offer, owner="bank")

    if knows:

        @shop.authenticate
        async def who(request: Request) -> Caller | None:
            shown = request.headers.get("authorization", "").removeprefix("Bearer ")
            if shown == "boss":
                return Caller("boss", frozenset({"operator"}))
            if shown == "ann":
                return Caller("ann", frozenset({"seller", "service"}), {"borrows": ["offers"]})
            if shown:
                raise Rejected("token", status=401)
            return None

    @shop.share("offers", key="offer_id", changed_by=[OfferChanged])
    async def offers(keys: list[str], read: Reads) -> dict[str, Offer]:
        return {}

    @shop.share("secrets", key="offer_id", changed_by=[OfferChanged])
    async def secrets(keys: list[str], read: Reads) -> dict[str, Offer]:
        return {}

    return shop


@asynccontextmanager
async def client_of(
    reach: Reach,
    base: str = "http://127.0.0.1:8000",
    *,
    knows: bool = True,
    client: tuple[str, int] = ("127.0.0.1", 9),
) -> AsyncIterator[AsyncClient]:
    context = context_of(shop_service(knows=knows), MemoryLog(), MemoryStore(), MemoryViews(), lambda name: NoOwner())
    context = replace(context, reach=reach)
    await context.prepare()
    head = ReadHead(context)
    site: Any = Site([head])
    transport = ASGITransport(site, client=client)
    async with AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as found:
        yield found


def token(of: str, *borrows: str, owner: str = "shop", key: str = KEY) -> str:
    service = Service(of)
    for share in borrows:
        service.borrow(share, Offer, owner="shop")
    context = context_of(service, MemoryLog(), MemoryStore(), MemoryViews(), lambda name: NoOwner())
    giving = bearing(service, owner, [key], context.clock)
    assert giving is not None
    return giving()


NOBODY, LIAR, USER, BORROWER, SERVICE, ELSEWHERE, FORGER, OPERATOR, BOSS = (
    "nobody",
    "a wrong token",
    "a user",
    "a borrower",
    "a service",
    "a token for another",
    "a token of another fleet",
    "an operator",
    "the role",
)
CALLERS = (NOBODY, LIAR, USER, BORROWER, SERVICE, ELSEWHERE, FORGER, OPERATOR, BOSS)


def tokens() -> dict[str, str]:
    """What each of them shows; a service's token is good for a minute."""
    return {
        NOBODY: "",
        LIAR: "not.a.token",
        USER: "ann",
        BORROWER: token("pages", "offers"),
        SERVICE: token("search"),
        ELSEWHERE: token("pages", "offers", owner="bank"),
        FORGER: token("pages", "offers", key="x" * 32),
        OPERATOR: OPERATORS_KEY,
        BOSS: "boss",
    }


ALL = frozenset(CALLERS)
PUBLIC = ALL
FLEET = {BORROWER, SERVICE, OPERATOR, BOSS}
OF_BORROWERS = {BORROWER}
OF_SERVICES = {BORROWER, SERVICE}
OF_OPERATORS = {OPERATOR, BOSS}
OF = "/_chimera/shop"
ROUTES: dict[tuple[str, str], tuple[str, frozenset[str] | set[str]]] = {
    ("GET", f"{OF}/commands/{{command_id}}"): (f"{OF}/commands/c", PUBLIC),
    ("GET", f"{OF}/commands"): (f"{OF}/commands?id=c", PUBLIC),
    ("GET", f"{OF}/health/live"): (f"{OF}/health/live", PUBLIC),
    ("GET", f"{OF}/health/ready"): (f"{OF}/health/ready", PUBLIC),
    ("GET", f"{OF}/metrics"): (f"{OF}/metrics", PUBLIC),
    ("GET", f"{OF}/journal"): (f"{OF}/journal?partition=0", FLEET),
    ("GET", f"{OF}/heads"): (f"{OF}/heads", FLEET),
    ("GET", f"{OF}/journal/heads"): (f"{OF}/journal/heads", FLEET),
    ("GET", f"{OF}/journal/chain"): (f"{OF}/journal/chain?partition=0", FLEET),
    ("GET", f"{OF}/journal/epochs"): (f"{OF}/journal/epochs", FLEET),
    ("GET", f"{OF}/share/offers"): (f"{OF}/share/offers?key=a", OF_BORROWERS),
    ("GET", f"{OF}/share/offers/digests"): (f"{OF}/share/offers/digests?partition=0", OF_BORROWERS),
    ("GET", f"{OF}/share/offers/entries"): (f"{OF}/share/offers/entries?partition=0&bucket=0", OF_BORROWERS),
    ("GET", f"{OF}/share/secrets"): (f"{OF}/share/secrets?key=a", set()),
    ("GET", f"{OF}/share/secrets/digests"): (f"{OF}/share/secrets/digests?partition=0", set()),
    ("GET", f"{OF}/share/secrets/entries"): (f"{OF}/share/secrets/entries?partition=0&bucket=0", set()),
    ("GET", f"{OF}/share/{{name}}"): (f"{OF}/share/none?key=a", OF_SERVICES),
    ("PUT", f"{OF}/consumers"): (f"{OF}/consumers", OF_SERVICES),
    ("GET", f"{OF}/borrows"): (f"{OF}/borrows", OF_OPERATORS),
    ("PUT", f"{OF}/borrows/fees"): (f"{OF}/borrows/fees", OF_OPERATORS),
    ("PUT", f"{OF}/borrows/{{name}}"): (f"{OF}/borrows/none", OF_OPERATORS),
    ("GET", f"{OF}/status"): (f"{OF}/status", OF_OPERATORS),
}
BODIES: dict[str, object] = {f"{OF}/consumers": {"consumers": []}, f"{OF}/borrows/fees": {"mode": "sync"}}


async def ask(client: AsyncClient, method: str, path: str, shown: str = "", body: object = None) -> Any:
    headers = {"authorization": f"Bearer {shown}"} if shown else {}
    return await client.request(method, path, headers=headers, json=BODIES.get(path, body))


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
async def test_who_may_reach_what_chimera_adds(route: tuple[str, str]) -> None:
    path, allowed = ROUTES[route]
    async with client_of(SET) as client:
        for caller, shown in tokens().items():
            answer = await ask(client, route[0], path, shown)
            may = answer.status_code not in (401, 403)
            assert (caller, may) == (caller, caller in allowed), answer.text
            if not may:
                assert answer.headers["content-type"] == "application/problem+json"
                assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
                assert answer.status_code == (401 if caller in (NOBODY, LIAR, ELSEWHERE, FORGER) else 403)


async def test_every_route_that_chimera_adds_is_in_the_table() -> None:
    context = context_of(shop_service(), MemoryLog(), MemoryStore(), MemoryViews(), lambda name: NoOwner())
    added = {(each.method, each.template) for each in ReadHead(context).routes() if each.template.startswith("/_")}
    assert added == set(ROUTES)
    alone = {(each.method, each.template) for each in Probes(replace(context, reach=SET), serves=False).routes()}
    assert alone <= set(ROUTES)


async def test_without_any_key_all_but_the_public_group_is_closed() -> None:
    async with client_of(Reach(is_open=False), knows=False) as client:
        for (method, _), (path, allowed) in ROUTES.items():
            for shown in tokens().values():
                answer = await ask(client, method, path, shown)
                assert (answer.status_code == 401) == (allowed is not PUBLIC), (path, answer.text)


async def test_this_machine_needs_no_key_where_dev_says_so_and_a_wrong_one_is_refused() -> None:
    path = f"{OF}/status"
    dev = Reach(is_open=False, dev=True, fleet=(KEY,))
    async with client_of(dev) as client:
        assert (await ask(client, "GET", path)).status_code == 200
        assert (await ask(client, "GET", path, "wrong")).status_code == 401
        assert (await client.get(path, headers={"x-forwarded-for": "127.0.0.1"})).status_code == 200
        assert (await client.get(path, headers={"x-forwarded-for": "127.0.0.1, 203.0.113.7"})).status_code == 401
        assert (await client.get(path, headers={"host": "evil.example"})).status_code == 401
        assert (await client.get(path, headers={"host": "[::1]:8000"})).status_code == 200
    async with client_of(dev, client=("203.0.113.7", 9)) as client:
        assert (await ask(client, "GET", path)).status_code == 401
    async with client_of(Reach(is_open=False)) as client:
        assert (await ask(client, "GET", path)).status_code == 401


async def test_a_service_tells_of_its_own_consumers_only() -> None:
    def report(consumer: str, number: int = 0) -> dict[str, Any]:
        return {"consumers": [{"consumer": consumer, "partition": 0, "number": number, "offset": 0}]}

    async with client_of(SET) as client:
        send = f"{OF}/consumers"

        async def told(of: str, body: object) -> int:
            shown = {"authorization": f"Bearer {token(of)}"}
            return int((await client.put(send, json=body, headers=shown)).status_code)

        assert await told("search", report("search gigs")) == 200
        assert await told("search", report("pages gigs")) == 403
        assert await told("search", report("search-2 gigs")) == 403
        assert await told("search-2", report("search gigs")) == 403
        assert await told("search", report("searchgigs")) == 403
        assert await told("search", report("search gigs", 10**9)) == 409
