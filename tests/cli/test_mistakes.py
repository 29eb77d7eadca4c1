"""Natural mistakes, and what a person sees: one line that says what is wrong, where, and what to type."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner

import chimera
from chimera.cli.main import main

SHOP = """\
from msgspec import Struct
from chimera import Command, Event, Service, Transaction

shop = Service("stall")


class PlaceOrder(Command, key="order_id"):
    order_id: str
    seller_id: str
    cents: int = 0


class OrderPlaced(Event, source="stall", key="seller_id"):
    seller_id: str
    cents: int


class Sales(Struct):
    seller_id: str
    orders: int = 0


@shop.handle("POST /orders")
async def place_order(command: PlaceOrder, tx: Transaction) -> None:
    tx.emit(OrderPlaced(command.seller_id, command.cents))


sales = shop.view(Sales, key="seller_id", path="/sellers/{seller_id}/sales", absent="empty")


@sales.on(OrderPlaced)
def placed(sale: Sales, event: OrderPlaced) -> None:
    sale.orders += 1
"""
TOML = '[services.stall]\napp = "shop:shop"\n'


class Mistake(msgspec.Struct, forbid_unknown_fields=True):
    """What was written or typed, and what is said."""

    said: str
    swap: tuple[str, str] = ("", "")
    toml: str = TOML
    typed: str = "check"
    env: dict[str, str] = {}
    ran: bool = False
    """True where the services have run before."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What was asked, and the answer."""

    asked: str
    status: int
    detail: str = ""
    field: str = ""
    body: str = ""
    headers: dict[str, str] = {}


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """All mistakes, by name."""

    declarations: dict[str, Mistake]
    settings: dict[str, Mistake]
    engines: dict[str, Mistake]
    typed: dict[str, Mistake]
    requests: dict[str, Request]


TABLE = msgspec.toml.decode((Path(__file__).parent / "mistakes.toml").read_bytes(), type=Table)
MISTAKES = {**TABLE.declarations, **TABLE.settings, **TABLE.engines, **TABLE.typed}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    monkeypatch.setenv("CHIMERA_STATE", "state")
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "chimera.toml").write_text(TOML)
    yield tmp_path
    sys.modules.pop("shop", None)


async def start_and_stop() -> None:
    async with chimera.asgi().lifespan():
        pass


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_line(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake = MISTAKES[name]
    (project / "shop.py").write_text(SHOP.replace(*mistake.swap) if mistake.swap[0] else SHOP)
    (project / "chimera.toml").write_text(mistake.toml)
    for variable, value in mistake.env.items():
        monkeypatch.setenv(variable, value)
    if mistake.ran:
        asyncio.run(start_and_stop())
    ran = CliRunner().invoke(main, mistake.typed.split(), prog_name="chimera")
    assert (ran.stderr, ran.exit_code in (1, 2)) == (f"chimera: {mistake.said}\n", True), ran.output
    assert "hunter2" not in ran.output


@pytest.fixture
async def asking(project: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = chimera.asgi()
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client,
    ):
        yield client


@pytest.mark.parametrize("name", TABLE.requests)
async def test_a_request_that_is_wrong_is_answered_with_what_to_change(name: str, asking: httpx.AsyncClient) -> None:
    asked = TABLE.requests[name]
    method, _, path = asked.asked.partition(" ")
    answer = await asking.request(method, path, content=asked.body or None, headers=asked.headers)
    said = answer.json()
    assert (answer.status_code, said["detail"], said.get("field", "")) == (asked.status, asked.detail, asked.field)


def test_there_are_forty() -> None:
    assert len(MISTAKES) + len(TABLE.requests) >= 40
