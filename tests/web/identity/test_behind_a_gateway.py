"""Who asks through a gateway: its services know sessions and certificates as if they had been asked themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest

from chimera.run.front.chain import in_front
from chimera.run.front.gateway import Gateway
from chimera.run.front.settings import Http
from chimera.run.hosting import Hosting
from chimera.run.serving import answering, base_of, listen_as_set, listening
from chimera.run.settings import read_settings
from tests.web.identity.issuer import CLIENT, SECRET, issuing

KEY = "f" * 40


class Fleet(NamedTuple):
    """Where the gateway is, and the desk behind it."""

    gateway: str
    desk: str


@asynccontextmanager
async def fleet(folder: Path, *, proxies: str = "127.0.0.1") -> AsyncIterator[Fleet]:
    """A desk, and a gateway before it that believes a proxy; both read the same settings."""
    async with AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(issuing())
        path = folder / "chimera.toml"
        path.write_text(
            f'[fleet]\nkeys = ["{KEY}"]\n[http]\nproxies = ["{proxies}"]\n'
            f'[[identity.issuers]]\nissuer = "{issuer.base}"\naudience = "desk"\n'
            f'client_id = "{CLIENT}"\nclient_secret = "{SECRET}"\n'
            '[identity.certificates]\nheader = "Client-Cert"\nholds = "name"\n'
            '[services.desk]\napp = "tests.web.identity.hosted:desk"\n'
        )
        found = read_settings(path, {"CHIMERA_STATE": str(folder / "state")}, {"port": 0})
        own = msgspec.structs.replace(found, http=Http())
        hosting = Hosting(lambda: own, heads=("read", "write"), together=True)
        listener = stack.enter_context(closing(await listen_as_set(own.http, "127.0.0.1", 0)))
        await stack.enter_async_context(hosting.running())
        await stack.enter_async_context(answering(hosting, listener))
        found.services["desk"].url = desk = base_of("127.0.0.1", listener)
        gateway = Gateway(found)
        stack.push_async_callback(gateway.close)
        site = await stack.enter_async_context(in_front(found.http, gateway.site(), proves=found.identity.proves))
        yield Fleet(await stack.enter_async_context(listening(site, "127.0.0.1", 0)), desk)


async def test_a_session_that_began_at_the_gateway_is_good_behind_it(tmp_path: Path) -> None:
    async with fleet(tmp_path) as at, httpx.AsyncClient(base_url=at.gateway, follow_redirects=True) as asking:
        page = await asking.get("/me", headers={"accept": "text/html"})
        assert (page.status_code, page.json()["subject"]) == (200, "ann")
        assert str(page.url) == f"{at.gateway}/me"
        for headers, status in (
            ({"origin": at.gateway}, 200),
            ({"origin": at.desk}, 403),
            ({"origin": at.desk, "x-forwarded-host": at.desk.removeprefix("http://")}, 403),
            ({"sec-fetch-site": "cross-site"}, 403),
            ({}, 403),
        ):
            assert (await asking.put("/notes/a", json={}, headers=headers)).status_code == status, headers


async def test_a_certificate_is_told_by_the_gateway_under_its_seal(tmp_path: Path) -> None:
    async with fleet(tmp_path) as at, httpx.AsyncClient() as asking:
        shown = {"client-cert": "robot"}
        assert (await asking.get(f"{at.gateway}/me", headers=shown)).json()["subject"] == "robot"
        assert (await asking.get(f"{at.desk}/greeting", headers=shown)).json() == "nobody", "that header is the proxy's"
        made_up = {"chimera-certificate": "robot"}
        assert (await asking.get(f"{at.gateway}/greeting", headers=made_up)).json() == "nobody", "it goes no further"
        assert (await asking.get(f"{at.desk}/greeting", headers=made_up)).status_code == 401


async def test_a_gateway_believes_no_header_of_a_stranger(tmp_path: Path) -> None:
    async with fleet(tmp_path, proxies="10.0.0.7") as at, httpx.AsyncClient() as asking:
        assert (await asking.get(f"{at.gateway}/greeting", headers={"client-cert": "robot"})).json() == "nobody"


@pytest.mark.parametrize("path", ["/_chimera/login", "/_chimera/logout"])
async def test_people_log_in_at_the_gateway(tmp_path: Path, path: str) -> None:
    async with fleet(tmp_path) as at, httpx.AsyncClient() as asking:
        assert (await asking.get(f"{at.gateway}{path}")).status_code in (200, 303)
