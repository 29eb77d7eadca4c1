"""Who may take which route, through HTTP; and that who may not leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from httpx import ASGITransport, AsyncClient
from msgspec import Struct

from chimera import (
    Caller,
    Command,
    DeclarationError,
    Entity,
    Event,
    NewId,
    Reader,
    Rejected,
    Request,
    Service,
    Transaction,
    Upload,
    anyone,
    owner_of,
    role,
    rule,
    scope,
    somebody,
    tenant_of,
)
from chimera.core.context import Context
from chimera.core.names import commands_topic
from chimera.run.engines import context_of
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from tests.support import NoOwner


class Page(Entity, key="page_id"):
    page_id: str
    author: str


class Put(Command, key="page_id"):
    page_id: str
    author: str = ""


class Move(Command, key="number"):
    number: int
    team: str = ""


class Log(Command, key="page_id"):
    page_id: Annotated[str, NewId]
    author: str


class Scan(Command, key="page_id"):
    page_id: str
    author: str


class WasPut(Event, source="pages", key="author"):
    page_id: str
    author: str


class Writer(Struct):
    author: str
    pages: int = 0


ran: list[str] = []


def pages_service() -> Service:  # noqa: C901 - many small functions
    pages = Service("pages")
    pages.entity(Page)

    @pages.authenticate(challenge="Bearer")
    async def who(request: Request) -> Caller | None:
        name, _, roles = request.headers.get("authorization", "").removeprefix("Bearer ").partition("+")
        if name == "wrong":
            raise Rejected("wrong_token", status=401)
        known = frozenset(roles.split("+")) - {""}
        return Caller(name, known, {"scope": " ".join(known)}, tenant=f"{name}s") if name else None

    @rule
    async def wrote_it(page_id: str, caller: Caller, read: Reader) -> bool:
        page = await read.load(Page, page_id)
        return page is not None and page.author == caller.subject

    @rule
    async def is_short(command: Put) -> bool:
        return len(command.author) < 5

    @pages.handle("PUT /pages/{page_id}", direct=True, allow=owner_of("author") | role("admin"))
    async def put(command: Put, tx: Transaction) -> None:
        ran.append("put")
        tx.save(Page(command.page_id, command.author))
        tx.emit(WasPut(command.page_id, command.author))

    @pages.handle("POST /pages/{page_id}/short", direct=True, allow=is_short & somebody)
    async def short(command: Short, tx: Transaction) -> None:
        ran.append("short")

    @pages.handle("POST /moves/{number}", allow=owner_of("number") & scope("move") | tenant_of("team"))
    async def move(command: Move, tx: Transaction) -> None:
        ran.append("move")

    @pages.handle("POST /log", allow=somebody)
    async def log(command: Log, tx: Transaction) -> None:
        ran.append("log")

    @pages.handle(allow=owner_of("author"))
    async def scan(command: Scan, tx: Transaction) -> None:
        ran.append("scan")

    @pages.upload("PUT /pages/{page_id}/scan", allow=somebody)
    async def scanned(page_id: str, upload: Upload) -> Scan:
        ran.append("scanned")
        return Scan(page_id, (await upload.read()).decode())

    @pages.get("/pages/{page_id}", allow=wrote_it | role("admin"))
    async def page(page_id: str, read: Reader) -> Page | None:
        ran.append("page")
        return await read.load(Page, page_id)

    @pages.get("/open", allow=anyone)
    async def opened(n: int = 0) -> dict[str, int]:
        return {"n": n}

    @pages.get("/mine", allow=owner_of("who"))
    async def mine(who: str, caller: Caller) -> dict[str, str]:
        return {"who": caller.subject}

    view = pages.view(
        Writer, key="author", path="/writers/{author}", absent="empty", allow=owner_of("author") | role("admin")
    )

    @view.on(WasPut)
    def was_put(writer: Writer, event: WasPut) -> None:
        writer.pages += 1

    view.list("by-pages", where="pages", path="/writers/with/{pages}", allow=role("admin"))
    return pages


class Short(Put, key="page_id"):
    pass


@asynccontextmanager
async def client_of(service: Service) -> AsyncIterator[tuple[AsyncClient, Context]]:
    context = context_of(service, MemoryLog(), MemoryStore(), MemoryViews(), lambda name: NoOwner())
    await context.prepare()
    head = ReadHead(context)
    await head.start()
    try:
        site: Any = Site([head])
        async with AsyncClient(transport=ASGITransport(site), base_url="http://here") as client:
            yield client, context
    finally:
        await head.stop()


NOBODY, ANN, BOB, BOSS = "", "ann", "bob", "boss+admin"
PUT = ("PUT", "/pages/p1", {"author": "ann"})
ACTIONS: dict[str, tuple[str, str, object]] = {
    "put": PUT,
    "short": ("POST", "/pages/p1/short", {"author": "abc"}),
    "too long": ("POST", "/pages/p1/short", {"author": "abcdef"}),
    "move": ("POST", "/moves/7", {}),
    "team": ("POST", "/moves/7", {"team": "anns"}),
    "log": ("POST", "/log", {"author": "x"}),
    "scan": ("PUT", "/pages/p9/scan", b"ann"),
    "page": ("GET", "/pages/p1", None),
    "open": ("GET", "/open", None),
    "mine": ("GET", "/mine?who=ann", None),
    "view": ("GET", "/writers/ann", None),
    "list": ("GET", "/writers/with/1", None),
}
TABLE = {
    "put": {NOBODY: 401, ANN: 200, BOB: 403, BOSS: 200},
    "short": {NOBODY: 401, ANN: 201, BOB: 201, BOSS: 201},
    "too long": {NOBODY: 401, ANN: 403, BOB: 403, BOSS: 403},
    "move": {NOBODY: 401, ANN: 403, BOB: 403, BOSS: 403, "7": 403, "7+move": 201, "8+move": 403},
    "team": {NOBODY: 401, ANN: 201, BOB: 403, BOSS: 403},
    "log": {NOBODY: 401, ANN: 201, BOB: 201, BOSS: 201},
    "scan": {NOBODY: 401, ANN: 201, BOB: 403, BOSS: 403},
    "page": {NOBODY: 401, ANN: 200, BOB: 403, BOSS: 200},
    "open": {NOBODY: 200, ANN: 200, BOB: 200, BOSS: 200},
    "mine": {NOBODY: 401, ANN: 200, BOB: 403, BOSS: 403},
    "view": {NOBODY: 401, ANN: 200, BOB: 403, BOSS: 200},
    "list": {NOBODY: 401, ANN: 403, BOB: 403, BOSS: 200},
}


async def ask(client: AsyncClient, action: tuple[str, str, object], caller: str, **more: Any) -> Any:
    method, path, body = action
    headers = {"authorization": f"Bearer {caller}"} if caller else {}
    given: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
    return await client.request(method, path, headers=headers | more.pop("headers", {}), **{**given, **more})


@pytest.mark.parametrize("action", ACTIONS)
async def test_who_may_do_what(action: str) -> None:
    async with client_of(pages_service()) as (client, _):
        assert (await ask(client, PUT, BOSS)).status_code == 200
        for caller, status in TABLE[action].items():
            answer = await ask(client, ACTIONS[action], caller)
            assert (caller, answer.status_code) == (caller, status), answer.text
            if status in (401, 403):
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["status"] == status
                assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("action", [name for name, (method, *_) in ACTIONS.items() if method != "GET"])
async def test_who_may_not_leaves_no_trace(action: str) -> None:
    async with client_of(pages_service()) as (client, context):
        for caller in (caller for caller, status in TABLE[action].items() if status in (401, 403)):
            ran.clear()
            key = {"idempotency-key": f"key-{caller}"}
            assert (await ask(client, ACTIONS[action], caller, headers=key)).status_code in (401, 403)
            assert set(ran) <= {"scanned"}
            assert not any((await context.log.ends(commands_topic("pages"))).values())
            assert not any((await context.store.heads()).values())


async def test_what_only_needs_the_caller_is_decided_before_the_body_is_read() -> None:
    async with client_of(pages_service()) as (client, _):

        async def never() -> AsyncIterator[bytes]:
            raise AssertionError("the body was read")
            yield b""

        for method, path, caller, status in (
            ("PUT", "/pages/p1", NOBODY, 401),
            ("POST", "/log", NOBODY, 401),
            ("PUT", "/pages/p1/scan", NOBODY, 401),
        ):
            answer = await ask(client, (method, path, None), caller, content=never())
            assert answer.status_code == status
        malformed = await client.request("PUT", "/pages/p1", content=b"{", headers={"authorization": "Bearer ann"})
        assert malformed.status_code == 400


async def test_a_wrong_token_is_refused_where_a_rule_asks() -> None:
    async with client_of(pages_service()) as (client, _):
        assert (await ask(client, PUT, "wrong")).status_code == 401
        assert (await ask(client, ACTIONS["open"], "wrong")).status_code == 200


async def test_a_parameter_that_is_wrong_is_told_to_those_only_who_might() -> None:
    async with client_of(pages_service()) as (client, _):
        assert (await ask(client, ("GET", "/mine?nothing=1", None), NOBODY)).status_code == 401
        assert (await ask(client, ("GET", "/mine?nothing=1", None), ANN)).status_code == 422


async def test_the_description_says_who_may() -> None:
    service = pages_service()
    context = context_of(service, MemoryLog(), MemoryStore(), MemoryViews(), lambda name: NoOwner())
    told = {(each.method, each.template): each.describe() for each in ReadHead(context).routes() if each.describe}
    put = told["PUT", "/pages/{page_id}"]
    assert put["x-chimera-allow"] == "owner_of('author') | role('admin')"
    assert {"401", "403"} <= put["responses"].keys()
    assert "401" not in told["GET", "/open"]["responses"]


def service_of_two() -> tuple[Service, Any]:
    shop = Service("shop")

    @shop.authenticate
    async def who(request: Request) -> Caller | None:
        return None

    @shop.get("/a", allow=somebody)
    async def first() -> int:
        return 1

    return shop, first


def checked(service: Service) -> None:
    context_of(service, MemoryLog(), MemoryStore(), MemoryViews(), lambda name: NoOwner())


def test_from_the_first_rule_on_no_route_is_without_one() -> None:
    shop, _ = service_of_two()
    checked(shop)

    @shop.get("/b")
    async def second() -> int:
        return 2

    with pytest.raises(DeclarationError, match=r"test_gate.py:\d+: second: nobody may GET /b: it has no rule, and GET"):
        checked(shop)


def test_a_view_and_its_list_need_rules_of_their_own() -> None:
    shop, _ = service_of_two()
    view = shop.view(Writer, key="author", path="/writers/{author}", allow=anyone)
    checked(shop)
    view.list("by-pages", where="pages", path="/by/{pages}")
    with pytest.raises(DeclarationError, match=r"test_gate.py:\d+: list by-pages: nobody may GET /by/\{pages\}"):
        checked(shop)


def test_a_field_that_does_not_exist_is_told_with_its_place() -> None:
    shop, _ = service_of_two()

    @shop.handle("POST /put", allow=owner_of("autor"))
    async def put(command: Put, tx: Transaction) -> None: ...

    with pytest.raises(DeclarationError, match=r"test_gate.py:\d+: put: owner_of\('autor'\): Put has no 'autor'; it"):
        checked(shop)


def test_a_function_of_another_command_is_told_with_its_place() -> None:
    shop, _ = service_of_two()

    async def of_move(command: Move) -> bool:
        return True

    @shop.handle("POST /put", allow=rule(of_move))
    async def put(command: Put, tx: Transaction) -> None: ...

    with pytest.raises(DeclarationError, match=r"test_gate.py:\d+: of_move takes Move; POST /put has Put"):
        checked(shop)


def test_a_rule_that_asks_who_needs_somebody_who_tells() -> None:
    shop = Service("shop")

    @shop.get("/a", allow=somebody)
    async def first() -> int:
        return 1

    with pytest.raises(DeclarationError, match=r"first: somebody asks who it is, and nobody tells; add: @service.auth"):
        checked(shop)
