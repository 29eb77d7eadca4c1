"""`make run` with its rules: people log in by a click, or in a shell, and do what is theirs; also after a restart."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient

from tests.e2e.conftest import ROOT, Chimera, Running, wait_until

RULED = {"CHIMERA_DEV": "false", "CHIMERA_OPEN": "false"}
SALES = "/sellers/seller-01/sales"
ORDER = {"order_id": "mine", "buyer_id": "buyer-001", "seller_id": "seller-01", "gig_id": "gig-001", "amount_cents": 5}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def ruled(tmp_path: Path) -> Iterator[Chimera]:
    chimera = Chimera(tmp_path / "state", environment=RULED)
    yield chimera
    chimera.end()


async def started(chimera: Chimera, more: list[str]) -> Running:
    """The marketplace, filled by an operator."""
    place = ("--port", str(chimera.port), "--state", str(chimera.state))
    server = chimera.start(*place, *more, module="marketplace")
    server.wait_ready()
    assert await asyncio.to_thread(wait_until, lambda: "check:" in server.output, 60), server.output
    assert ": balances" in server.output
    return server


async def log_in(browser: AsyncClient, subject: str, then: str) -> None:
    """As a person does it: the page that was sent is filled in and sent back."""
    begun = await browser.get("/_chimera/login", params={"next": then})
    page = await browser.get(begun.headers["location"])
    assert page.status_code == 200, page.text
    kept = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page.text)
    form = {unescape(name): unescape(value) for name, value in kept}
    assert f'value="{subject}"' in page.text
    chosen = await browser.post("/_issuer/authorize", data={**form, "subject": subject})
    back = await browser.get(chosen.headers["location"])
    assert (back.status_code, back.headers["location"]) == (303, then), back.text


def token_of(chimera: Chimera, who: str) -> dict[str, str]:
    printed = chimera.run("token", who)
    assert printed.returncode == 0, printed.stderr
    return {"authorization": f"Bearer {printed.stdout.strip()}"}


async def status_of(browser: AsyncClient, path: str, headers: dict[str, str], body: Any = None) -> int:
    answer = await browser.request("GET" if body is None else "POST", path, headers=headers, json=body)
    return answer.status_code


@pytest.mark.parametrize("more", [[], ["--processes"]], ids=["one process", "processes"])
async def test_people_log_in_and_do_what_is_theirs(ruled: Chimera, more: list[str]) -> None:
    server = await started(ruled, more)
    async with AsyncClient(base_url=ruled.base, timeout=20) as browser, AsyncClient(base_url=ruled.base) as shell:
        assert (await browser.get(SALES)).status_code == 401
        await log_in(browser, "seller-01", SALES)
        assert (await browser.get(SALES)).json()["orders"] == 14
        assert (await browser.get("/sellers/seller-02/sales")).status_code == 403
        buyer, operator = token_of(ruled, "buyer"), token_of(ruled, "operator")
        assert await status_of(shell, "/orders", buyer, ORDER) == 201
        assert await status_of(shell, "/orders", buyer, {**ORDER, "buyer_id": "buyer-002"}) == 403
        for path in ("/sellers/seller-02/sales", "/_chimera/orders/status", "/_chimera/orders/heads"):
            assert await status_of(shell, path, {}) == 401
            assert await status_of(shell, path, buyer) == 403
            assert await status_of(shell, path, operator) == 200
        assert await status_of(shell, "/search?q=logo", {}) == 200
        check = [sys.executable, "-m", "marketplace.check", "--base", ruled.base, "--state", str(ruled.state)]
        ran = await asyncio.to_thread(subprocess.run, [*check, "--as", "operator"], cwd=ROOT, capture_output=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        server.stop()
        again = ruled.start("--port", str(ruled.port), "--state", str(ruled.state), *more, module="marketplace")
        again.wait_ready()
        assert (await browser.get(SALES)).status_code == 200
        assert await status_of(shell, "/sellers/seller-02/sales", operator) == 200


def test_who_is_nobody_is_told_in_one_line(ruled: Chimera) -> None:
    unknown = ruled.run("token", "eve")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("chimera: 'eve' is nobody; there are: buyer-001 (buyer), seller-01 (seller), ")
    away = ruled.run("token", "seller")
    assert away.returncode == 2
    assert away.stderr.startswith(f"chimera: no issuer answers at {ruled.base}/_issuer: ")
