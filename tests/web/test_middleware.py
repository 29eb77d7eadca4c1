"""A service's own ASGI middleware, through HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from chimera import ChimeraError, Command, DeclarationError, Problem, Rejected, Reply, Service, Stream, Transaction
from chimera.run.engines import context_of
from chimera.run.serving import listening
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.web.home import Home
from chimera.web.read_head import ReadHead
from chimera.web.site import Site


class Ring(Command, key="bell_id"):
    bell_id: str


class Named:
    """Adds its name to what the answer has, and notes its lifespan and what it is asked."""

    def __init__(self, app: Any, name: str, noted: list[str]) -> None:
        self.app, self.name, self.noted = app, name, noted

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.noted.append(f"{self.name} {scope['type']}")
        await self.app(scope, receive, partial(self.named, send))
        self.noted.append(f"{self.name} ends")

    async def named(self, send: Any, event: Any) -> None:
        if event["type"] == "http.response.start":
            event["headers"] = [*event["headers"], (b"x-through", self.name.encode())]
        await send(event)


def failing(app: Any, when: str) -> Any:
    """Middleware that fails where it is told to."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" and when == "lifespan":
            scope["path"]
        elif scope["type"] == "lifespan" and when == "keeps":
            return
        elif scope["type"] == "lifespan" or when == "after":
            await app(scope, receive, send)
        if scope["type"] == "http" and when != "silent":
            raise ZeroDivisionError

    return application


def bells(go_on: asyncio.Event | None = None) -> Service:
    service = Service("bells")

    @service.handle("POST /bells", direct=True)
    async def ring(command: Ring, tx: Transaction) -> Reply[str]:
        if command.bell_id == "cracked":
            raise Rejected("cracked", "it does not ring")
        return Reply("rung", 201)

    @service.get("/bells/{bell_id}")
    async def bell(bell_id: str) -> str | None:
        return None if bell_id == "none" else bell_id

    @service.get("/stream")
    async def stream() -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            assert go_on is not None
            await go_on.wait()
            yield b"two"

        return Stream(chunks(), "text/plain")

    return service


def nobody(name: str) -> Any:
    raise LookupError(name)


@asynccontextmanager
async def served(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    context = context_of(service, MemoryLog(), MemoryStore(), MemoryViews(), nobody)
    await context.prepare()
    head = ReadHead(context)
    await context.resources.open()
    await head.start()
    async with (
        listening(Site([head, Home("Bells", [head])]), "127.0.0.1", 0) as base,
        httpx.AsyncClient(base_url=base) as client,
    ):
        yield client
    await head.stop()
    await context.resources.close()


async def test_middleware_is_around_the_answers_of_a_services_routes_the_first_outermost() -> None:
    service, noted = bells(), list[str]()
    service.middleware(Named, "outer", noted)
    service.middleware(Named, name="inner", noted=noted)
    async with served(service) as client:
        assert noted == ["outer lifespan", "inner lifespan"]
        noted.clear()
        answer = await client.get("/bells/b%2F1")
        assert (answer.json(), answer.headers.get_list("x-through")) == ("b/1", ["inner", "outer"])
        assert noted == ["outer http", "inner http", "inner ends", "outer ends"]
        noted.clear()
        assert (await client.head("/bells/b")).headers.get_list("x-through") == ["inner", "outer"]
        assert (await client.post("/bells", json={"bell_id": "b"})).status_code == 201
        noted.clear()
    assert noted == ["inner ends", "outer ends"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/bells/none", None, 404),
        ("POST", "/bells", {"bell_id": "cracked"}, 409),
        ("POST", "/bells", {}, 422),
    ],
)
async def test_middleware_sees_what_is_refused_as_an_answer(method: str, path: str, body: Any, status: int) -> None:
    service = bells()
    service.middleware(Named, "only", [])
    async with served(service) as client:
        answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.headers["x-through"] == "only"


async def test_chimeras_own_routes_go_past_a_services_middleware() -> None:
    service = bells()
    service.middleware(failing, "before")
    async with served(service) as client:
        for path in ("/_chimera/bells/health/live", "/_chimera/bells/status", "/metrics", "/openapi.json", "/"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/nothing")).status_code == 404
        assert "options" not in (await client.get("/openapi.json")).json()["paths"]["/bells"]


@pytest.mark.parametrize("when", ["before", "silent"])
async def test_middleware_that_fails_is_a_500_and_in_the_log_with_its_place(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = bells()
    service.middleware(Named, "outer", [])
    service.middleware(failing, when)
    async with served(service) as client:
        answer = await client.get("/bells/b")
    assert (answer.status_code, answer.json()["detail"]) == (500, "something went wrong here; it is in the log")
    assert (answer.headers["content-type"], answer.headers["x-through"]) == ("application/problem+json", "outer")
    [record] = [each for each in caplog.records if each.name == "chimera"]
    assert "GET /bells/b failed: " in record.getMessage()
    assert "test_middleware.py:" in record.getMessage()
    assert "the middleware failing" in record.getMessage()
    assert bool(record.exc_info) == (when == "before")


async def test_what_fails_in_middleware_has_the_shape_that_the_services_errors_have() -> None:
    service = bells()
    service.middleware(failing, "before")

    @service.errors
    def shaped(problem: Problem) -> Reply[Any]:
        return Reply({"error": problem.detail}, 418)

    async with served(service) as client:
        answer = await client.get("/bells/b")
    assert (answer.status_code, list(answer.json())) == (418, ["error"])


async def test_middleware_that_fails_after_the_answer_leaves_it_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    service = bells()
    service.middleware(failing, "after")
    async with served(service) as client:
        assert (await client.get("/bells/b")).json() == "b"
        assert (await client.get("/bells/c")).json() == "c"
    assert len([each for each in caplog.records if "the middleware failing" in each.getMessage()]) == 2


async def test_a_stream_goes_through_middleware_piece_by_piece() -> None:
    go_on = asyncio.Event()
    service = bells(go_on)
    service.middleware(Named, "only", [])
    async with served(service) as client, client.stream("GET", "/stream") as answer:
        pieces = answer.aiter_bytes()
        assert await anext(pieces) == b"one"
        go_on.set()
        assert await anext(pieces) == b"two"


async def test_starlettes_middleware_serves_other_origins_and_answers_by_itself() -> None:
    service = bells()

    class Closed(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            return Response("closed", 423) if request.headers.get("x-night") else await call_next(request)

    service.middleware(CORSMiddleware, allow_origins=["https://bells.example"], allow_methods=["POST"])
    service.middleware(Closed)
    origin = {"origin": "https://bells.example"}
    async with served(service) as client:
        asked = await client.options("/bells", headers={**origin, "access-control-request-method": "POST"})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin["origin"])
        missing = await client.get("/bells/none", headers=origin)
        assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, origin["origin"])
        closed = await client.get("/bells/b", headers={**origin, "x-night": "1"})
        assert (closed.text, closed.headers["access-control-allow-origin"]) == ("closed", origin["origin"])
        plain = await client.options("/bells/b")
        assert (plain.status_code, plain.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (
            "lifespan",
            "the middleware failing fails outside of requests: KeyError: 'path'; what is not HTTP it passes on",
        ),
        ("keeps", "a middleware keeps the lifespan to itself; what is not HTTP it passes on"),
    ],
)
async def test_middleware_that_does_not_pass_on_the_lifespan_is_told_what_to_write(when: str, said: str) -> None:
    service = bells()
    service.middleware(failing, when)
    with pytest.raises(ChimeraError, match=said):
        async with served(service):
            pass


async def test_what_middleware_says_against_a_start_is_said() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no keys"})

    service = bells()
    service.middleware(lambda app: refuses)
    with pytest.raises(ChimeraError, match="a middleware failed: no keys"):
        async with served(service):
            pass


@pytest.mark.parametrize(
    ("factory", "options", "said"),
    [
        (Named, {"noted": []}, "the middleware Named can't be made of what it is given: .*'name'"),
        (failing, {}, "the middleware failing can't be made of what it is given: missing a required argument: 'when'"),
        ("Named", {}, "the middleware .* is a str; give a class or a function"),
    ],
)
def test_what_can_not_be_middleware_is_refused_where_it_is_declared(
    factory: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DeclarationError, match=rf"test_middleware\.py:\d+: {said}"):
        bells().middleware(factory, **options)


def test_a_handler_of_starlettes_kind_is_told_what_middleware_is() -> None:
    async def timed(request: Request, call_next: Callable[..., Any]) -> Response:
        raise NotImplementedError

    with pytest.raises(DeclarationError, match=r"timed is an async def; .*to run around each handler: @service.around"):
        bells().middleware(timed)  # type: ignore[arg-type, call-arg]


async def test_what_middleware_makes_has_to_be_an_application() -> None:
    service = bells()
    service.middleware(lambda app: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(DeclarationError, match="makes a NoneType; it makes an application"):
        async with served(service):
            pass


async def test_a_service_without_middleware_is_asked_as_ever() -> None:
    head = ReadHead(context_of(bells(), MemoryLog(), MemoryStore(), MemoryViews(), nobody))
    assert not [route for route in head.routes() if "OwnMiddleware" in route.endpoint.__qualname__]
    assert not [route for route in head.routes() if route.method == "OPTIONS"]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
