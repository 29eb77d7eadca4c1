"""Services inside other people's applications: started, mounted below a path, stopped, and what is said where not."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import django.conf
import django.core.asgi
import django.http
import django.urls
import fastapi
import httpx
import litestar
import pytest
import starlette.applications
import starlette.routing

import chimera
from chimera.adapters.http import HttpOwner
from chimera.errors import SettingsError
from chimera.run.hosting import Hosting, serve
from chimera.run.settings import read_settings
from chimera.run.write_head import WriteHead

PAGE = Path(__file__).parents[2] / "docs" / "asgi.md"
BLOCKS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
CONFIG = Path(__file__).parent / "hosted" / "chimera.toml"
BOTH: tuple[chimera.Side, ...] = ("read", "write")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:litestar|starlette|fastapi|django")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHIMERA_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@asynccontextmanager
async def asked(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client:
        yield client


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """As a server does it: its startup, requests, its shutdown."""
    events: asyncio.Queue[Any] = asyncio.Queue()
    said: asyncio.Queue[str] = asyncio.Queue()

    async def send(event: Any) -> None:
        await said.put(event["type"])

    living = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, events.get, send))
    await events.put({"type": "lifespan.startup"})
    assert await said.get() == "lifespan.startup.complete"
    async with asked(app) as client:
        yield client
    await events.put({"type": "lifespan.shutdown"})
    assert await said.get() == "lifespan.shutdown.complete"
    await living


ORDER = {"order_id": "o 1", "seller_id": "ann", "cents": 5}


async def order_and_read(client: httpx.AsyncClient, prefix: str = "") -> None:
    placed = await client.post(f"{prefix}/orders", json=ORDER)
    assert (placed.status_code, placed.headers["location"]) == (201, f"{prefix}/orders/o%201")
    told = await client.get(f"{prefix}/_chimera/kiosk/commands/{placed.json()['command_id']}?wait=10")
    after = {"Chimera-After": told.json()["position"]}
    read = await client.get(f"{prefix}/sellers/ann/sales", headers=after)
    assert (read.json()["orders"], "chimera-behind" in read.headers) == (1, False)


async def test_an_application_serves_between_start_and_stop_and_not_outside() -> None:
    app = chimera.asgi(CONFIG, heads=BOTH)
    async with asked(app) as client:
        before = await client.get("/sellers/ann/sales")
        assert before.status_code == 503
        assert "lifespan=app.lifespan" in before.json()["detail"]
        async with app.lifespan():
            await order_and_read(client)
        assert (await client.get("/sellers/ann/sales")).status_code == 503
        async with app.lifespan():
            assert (await client.get("/sellers/ann/sales")).json()["orders"] == 1


async def test_without_more_words_only_the_read_head_works() -> None:
    app = chimera.asgi(CONFIG)
    async with app.lifespan(), asked(app) as client:
        placed = await client.post("/orders", json=ORDER)
        assert placed.status_code == 201
        state = await client.get(f"/_chimera/kiosk/commands/{placed.json()['command_id']}?wait=0.2")
        assert state.json()["state"] == "pending"


async def test_write_heads_alone_serve_their_probes() -> None:
    app = chimera.asgi(CONFIG, heads=("write",))
    async with app.lifespan(), asked(app) as client:
        assert (await client.get("/_chimera/kiosk/health/live")).status_code == 200
        assert (await client.get("/sellers/ann/sales")).status_code == 404


async def test_only_the_services_that_are_named_are_served() -> None:
    app = chimera.asgi(CONFIG, services=["kiosk"])
    async with app.lifespan(), asked(app) as client:
        assert (await client.get("/sellers/ann/sales")).status_code == 200
        assert (await client.get("/pages/ann")).status_code == 404


async def test_services_that_are_hosted_together_find_each_other_wherever_they_are_served() -> None:
    app = chimera.asgi(CONFIG)
    async with app.lifespan(), asked(app) as client:
        assert (await client.get("/pages/ann")).json() == ["ann sells", "fresh"]
        assert (await client.get("/pages/broken")).json() == ["", "absent"]


async def test_services_of_one_process_do_not_wait_for_its_own_port_while_they_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HttpOwner, "__init__", lambda *_: pytest.fail("an owner in this process is asked over HTTP"))
    settings = read_settings(CONFIG.parents[3] / "chimera.toml", os.environ, {"port": 0})
    serves = asyncio.get_running_loop().create_future()
    names = list(settings.services)
    serving = asyncio.create_task(
        serve(settings, names, read=True, write=True, fleet=False, ready=serves.set_result),
    )
    await asyncio.wait([serves, serving], return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()
    assert (await serves).startswith("http://127.0.0.1:")


async def test_a_second_start_beside_the_first_is_refused() -> None:
    app = chimera.asgi(CONFIG)
    async with app.lifespan():
        with pytest.raises(chimera.ChimeraError, match="started already; run their lifespan once"):
            async with app.lifespan():
                pass
        async with asked(app) as client:
            assert (await client.get("/sellers/ann/sales")).status_code == 200


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"CHIMERA_STORE": "postgres://db/shop"}, "postgres"),
        ({"CHIMERA_COLOUR": "blue"}, "colour"),
    ],
)
async def test_a_server_is_told_in_one_line_what_keeps_services_from_starting(
    settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    [failed] = await lived(chimera.asgi(CONFIG))
    assert failed["type"] == "lifespan.startup.failed"
    assert said in failed["message"]
    assert "\n" not in failed["message"]


async def test_a_file_that_is_not_there_keeps_nobody_from_declaring_the_application(tmp_path: Path) -> None:
    [failed] = await lived(chimera.asgi(tmp_path / "nowhere.toml"))
    assert "nowhere.toml can't be read" in failed["message"]


async def lived(app: chimera.Application) -> list[Any]:
    """What an application says to a server that starts and stops."""
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(events)

    async def send(event: Any) -> None:
        sent.append(event)

    await app({"type": "lifespan"}, receive, send)
    return sent


async def test_a_server_hears_of_start_and_stop() -> None:
    assert [each["type"] for each in await lived(chimera.asgi(CONFIG))] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_a_mistake_of_ours_at_the_start_ends_the_server_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(self: object, context: object, holder: str) -> None:
        raise ZeroDivisionError("out of luck")

    monkeypatch.setattr(WriteHead, "__init__", breaks)
    [failed] = await lived(chimera.asgi(CONFIG, heads=BOTH))
    assert failed == {
        "type": "lifespan.startup.failed",
        "message": "chimera: ZeroDivisionError('out of luck'); it is in the log",
    }
    assert "out of luck" in caplog.text


async def test_a_head_that_ends_by_itself_turns_everything_into_503(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dying = asyncio.Event()

    async def dies(self: WriteHead) -> None:
        await dying.wait()
        raise RuntimeError("out of luck")

    monkeypatch.setattr(WriteHead, "run", dies)
    app = chimera.asgi(CONFIG, heads=BOTH, services=["kiosk"])
    async with app.lifespan(), asked(app) as client:
        assert (await client.get("/sellers/ann/sales")).status_code == 200
        dying.set()
        async with asyncio.timeout(60):
            while "by itself" not in caplog.text:
                await client.get("/sellers/ann/sales")
        answer = await client.get("/_chimera/kiosk/health/live")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "kiosk's write head ended by itself; this process must be started again"
    assert "out of luck" in caplog.text


def test_heads_that_there_are_not_are_refused_when_they_are_named() -> None:
    with pytest.raises(chimera.SettingsError, match=r"write heads=\('read',\), \('write',\) or \('read', 'write'\)"):
        chimera.asgi(CONFIG, heads="read")  # type: ignore[arg-type]


async def test_a_web_socket_is_closed() -> None:
    app = chimera.asgi(CONFIG)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(event: Any) -> None:
        sent.append(event)

    async with app.lifespan():
        await app({"type": "websocket", "path": "/"}, receive, send)
    assert [each["type"] for each in sent] == ["websocket.close"]


@pytest.mark.parametrize("name", BLOCKS)
async def test_what_the_page_says_works_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_django()
    monkeypatch.chdir(CONFIG.parent)
    written: dict[str, Any] = {"__name__": name}
    exec(compile(BLOCKS[name], f"{name}.py", "exec"), written)
    prefix = "" if name == "main" else "/shop"
    async with served(written["app"]) as client:
        placed = await client.post(f"{prefix}/orders", json=ORDER)
        assert (placed.status_code, placed.headers["location"]) == (201, f"{prefix}/orders/o%201")


def of_starlette(app: chimera.Application) -> Any:
    return starlette.applications.Starlette(routes=[starlette.routing.Mount("/my shop", app)], lifespan=app.lifespan)


def of_fastapi(app: chimera.Application) -> Any:
    host = fastapi.FastAPI(lifespan=app.lifespan)
    host.mount("/my shop", app)

    @host.get("/own")
    async def own() -> str:
        return "own"

    return host


def of_litestar(app: chimera.Application) -> Any:
    mounted = litestar.asgi("/my shop", is_mount=True, copy_scope=True)(app.__call__)
    return litestar.Litestar([mounted], lifespan=[app.lifespan])


def configure_django() -> None:
    async def own(request: django.http.HttpRequest) -> django.http.HttpResponse:
        return django.http.JsonResponse("own", safe=False)

    if not django.conf.settings.configured:
        django.conf.settings.configure(
            ROOT_URLCONF=(django.urls.path("own", own),), ALLOWED_HOSTS=["*"], SECRET_KEY="tests", DEBUG=False
        )


def of_django(app: chimera.Application) -> Any:
    configure_django()
    return app.in_front_of(django.core.asgi.get_asgi_application(), "/my shop")


HOSTS = [of_starlette, of_fastapi, of_litestar, of_django]


@pytest.mark.parametrize("hosted", HOSTS)
async def test_an_application_is_mounted_below_a_path_and_says_so_in_its_links(hosted: Callable[[Any], Any]) -> None:
    async with served(hosted(chimera.asgi(CONFIG, heads=BOTH))) as client:
        placed = await client.post("/my%20shop/orders", json=ORDER)
        assert (placed.status_code, placed.headers["location"]) == (201, "/my%20shop/orders/o%201")
        told = await client.get(f"/my%20shop/_chimera/kiosk/commands/{placed.json()['command_id']}?wait=10")
        after = {"Chimera-After": told.json()["position"]}
        assert (await client.get("/my%20shop/sellers/ann/sales", headers=after)).json()["orders"] == 1
        assert (await client.get("/my%20shop/sellers/a%2Fb/sales")).json()["seller_id"] == "a/b"
        assert (await client.get("/my%20shop/openapi.json")).json()["servers"] == [{"url": "/my%20shop"}]
        assert 'href="/my%20shop/openapi.json"' in (await client.get("/my%20shop/")).text
        assert (await client.get("/my%20shop/nothing")).headers["content-type"] == "application/problem+json"
        assert (await client.get("/orders")).status_code == 404


async def test_what_is_not_below_the_path_is_the_other_application() -> None:
    for hosted in (of_fastapi, of_django):
        async with served(hosted(chimera.asgi(CONFIG))) as client:
            assert (await client.get("/own")).json() == "own"
            assert (await client.get("/my%20shopping")).status_code == 404


async def test_a_mount_whose_lifespan_nobody_runs_says_what_to_do() -> None:
    host = starlette.applications.Starlette(routes=[starlette.routing.Mount("/shop", chimera.asgi(CONFIG))])
    async with served(host) as client:
        answer = await client.get("/shop/sellers/ann/sales")
    assert answer.status_code == 503
    assert "give it lifespan=app.lifespan" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["shop", "/shop/", "/", ""])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(chimera.SettingsError, match="begin it with a slash"):
        Hosting(lambda: None).in_front_of(lambda *_: None, path)  # type: ignore[arg-type, return-value]


async def test_a_mounted_front_page_links_below_its_path_only() -> None:
    async with served(chimera.asgi(CONFIG).in_front_of(lambda *_: None, "/shop")) as client:  # type: ignore[arg-type]
        page = (await client.get("/shop")).text
    assert "root.invalid" not in page
    assert "host.invalid" not in page
    assert "curl http://host/shop/sellers/seller-1/sales" in page


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "httpx")


async def test_what_asks_no_rule_is_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIMERA_OPEN", "true")
    monkeypatch.delenv("CHIMERA_DEV", raising=False)
    with pytest.raises(SettingsError, match=r"^open = true .* for those on this machine only: add --dev$"):
        async with chimera.asgi(CONFIG).lifespan():
            pass
