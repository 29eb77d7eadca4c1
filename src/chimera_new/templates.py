"""The text of what is written. `$service` is a service's name, `$module` its module."""

from __future__ import annotations

from string import Template

SERVICE = Template('''\
"""$title: takes orders, and counts what each seller has sold."""

from msgspec import Struct

from chimera import Command, Event, Rejected, Service, Transaction

$module = Service("$service")


class PlaceOrder(Command, key="order_id"):
    order_id: str
    seller_id: str
    amount_cents: int


class OrderPlaced(Event, source="$service", key="order_id"):
    order_id: str
    seller_id: str
    amount_cents: int


class Sales(Struct):
    seller_id: str
    orders: int = 0
    revenue_cents: int = 0


@$module.handle("POST /orders")
async def place_order(command: PlaceOrder, tx: Transaction) -> None:
    if command.amount_cents <= 0:
        raise Rejected("nothing_to_pay")
    tx.emit(OrderPlaced(command.order_id, command.seller_id, command.amount_cents))


sales = $module.view(Sales, key="seller_id", path="/sellers/{seller_id}/sales", absent="empty")


@sales.on(OrderPlaced)
def order_counted(sale: Sales, event: OrderPlaced) -> None:
    sale.orders += 1
    sale.revenue_cents += event.amount_cents
''')

SETTINGS = Template("""\
title = "$title"

[services.$service]
app = "$module:$module"
""")

MAKEFILE = """\
# The Python that chimera is installed in; another one with PYTHON=…
PYTHON ?= $(or $(wildcard $(dir $(realpath $(shell command -v chimera)))python),python3)
PIP := $(PYTHON) -m pip --disable-pip-version-check

.PHONY: run test check
.DEFAULT_GOAL := run

run: ## Run the service on http://127.0.0.1:8000
	@$(PYTHON) -m chimera up

test: ## Run the tests, after what they need is installed
	@$(PYTHON) -c 'import httpx, pytest' 2>/dev/null || $(PIP) install --quiet --requirement requirements-dev.txt
	@$(PYTHON) -m pytest

check: ## Say whether it would start, and as what
	@$(PYTHON) -m chimera check
"""

REQUIREMENTS = "chimera-kit\n"
REQUIREMENTS_DEV = "--requirement requirements.txt\nhttpx\npytest\n"
IGNORED = ".state/\n.venv/\n__pycache__/\n.pytest_cache/\n"
PYTEST = """\
[pytest]
addopts = -q
pythonpath = .
testpaths = tests
"""

CONFTEST = '''\
"""What the tests share: the services of chimera.toml, whole, in this process and in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

import chimera

CONFIG = Path(__file__).parents[1] / "chimera.toml"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    for kind in ("LOG", "STORE", "VIEWS"):
        monkeypatch.setenv(f"CHIMERA_{kind}", "memory://{service}" if kind != "LOG" else "memory://log")
    app = chimera.asgi(CONFIG, heads=("read", "write"))
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tests") as client,
    ):
        yield client
'''

TESTS = Template('''\
"""A fold is a function, tested as one; the whole service is asked over HTTP."""

import httpx
import pytest
from $module import OrderPlaced, Sales, order_counted


def test_an_order_counts_for_its_seller() -> None:
    sale = Sales("ann")
    order_counted(sale, OrderPlaced("o1", "ann", 1200))
    assert sale == Sales("ann", orders=1, revenue_cents=1200)


@pytest.mark.anyio
async def test_an_order_is_placed_and_shown(client: httpx.AsyncClient) -> None:
    placed = await client.post("/orders", json={"order_id": "o1", "seller_id": "ann", "amount_cents": 1200})
    assert placed.status_code == 201
    done = (await client.get(f"/_chimera/$service/commands/{placed.json()['command_id']}?wait=10")).json()
    assert done["state"] == "done"
    shown = await client.get("/sellers/ann/sales", headers={"Chimera-After": done["position"]})
    assert shown.json() == {"seller_id": "ann", "orders": 1, "revenue_cents": 1200}


@pytest.mark.anyio
async def test_an_order_of_nothing_is_refused(client: httpx.AsyncClient) -> None:
    placed = await client.post("/orders", json={"order_id": "o2", "seller_id": "ann", "amount_cents": 0})
    done = (await client.get(f"/_chimera/$service/commands/{placed.json()['command_id']}?wait=10")).json()
    assert (done["state"], done["reason"]) == ("rejected", "nothing_to_pay")
''')

README = Template("""\
# $title

    make test      # the tests
    make run       # the service on http://127.0.0.1:8000
    make check     # whether it would start, and as what

`$module.py` is the service, `chimera.toml` says which services there are and on which engines. Without any, they are
files below `.state`.

    chimera add event OrderShipped --key order_id
    chimera add command ShipOrder --key order_id --emits OrderShipped
    chimera add view shipments --key order_id --of OrderShipped
    chimera up --reload

When it is deployed for the first time, `chimera names` pins the names under which it stores and sends; commit the file.
""")

EVENT = Template("""\
class $name(Event, source="$service", key="$key"):
    $key: str
""")

COMMAND = Template("""\
class $name(Command, key="$key"):
$fields


@$app.handle("POST /$path")
async def $function(command: $name, tx: Transaction) -> None:
    $body
""")

VIEW = Template("""\
class $document(Struct):
    $key: str
    count: int = 0


$name = $app.view($document, key="$key", path="/$path/{$key}", absent="empty")


@$name.on($event)
def $function(document: $document, event: $event) -> None:
    document.count += 1
""")

LIST = Template("""\
$variable = $view.list("$name", ${where}order="$order", path="/$path")
""")

SHARE = Template("""\
class $document(Struct):
    $key: str


@$app.share("$name", key="$key", changed_by=[$event])
async def $function(${key}s: list[str], tx: Reads) -> dict[str, $document]:
    return {$key: $document($key) for $key in ${key}s}
""")

BORROW = Template("""\
class $document(Struct):
    $key: str


$variable = $app.borrow("$name", $document, owner="$owner", mode="$mode", budget=0.05)


@$app.get("/$name/{$key}")
async def $function($key: str, read: Reader) -> Borrowed[$document]:
    return await read.borrowed($variable, $key)
""")

EVENT_TEST = Template("""\
from $module import $name


def test_its_key_is_$key() -> None:
    assert $name("k1").$key == "k1"
""")

COMMAND_TEST = Template("""\
import httpx
import pytest


@pytest.mark.anyio
async def test_it_is_done(client: httpx.AsyncClient) -> None:
    accepted = await client.post("/$path", json={$json})
    assert accepted.status_code == 201
    done = await client.get(f"/_chimera/$service/commands/{accepted.json()['command_id']}?wait=10")
    assert done.json()["state"] == "done"
""")

VIEW_TEST = Template("""\
import httpx
import pytest
from $module import $document


@pytest.mark.anyio
async def test_it_is_empty_before_the_first_event(client: httpx.AsyncClient) -> None:
    shown = await client.get("/$path/k1")
    assert (shown.status_code, shown.json()) == (200, {"$key": "k1", "count": 0})
    assert $document("k1").count == 0
""")

LIST_TEST = Template("""\
import asyncio

import httpx
import pytest


@pytest.mark.anyio
async def test_it_has_nothing_before_the_first_event(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):
        while (page := await client.get("/$asked")).status_code == 503:  # it is being built
            await asyncio.sleep(0.02)
    assert (page.status_code, page.json()["items"], page.json()["count"]) == (200, [], 0)
""")

SHARE_TEST = Template("""\
import httpx
import pytest


@pytest.mark.anyio
async def test_a_document_for_each_key(client: httpx.AsyncClient) -> None:
    shared = await client.get("/_chimera/$service/share/$name?key=k1&key=k2")
    assert shared.json()["documents"] == {"k1": {"$key": "k1"}, "k2": {"$key": "k2"}}
""")

BORROW_TEST = Template("""\
import httpx
import pytest


@pytest.mark.anyio
async def test_the_page_answers_whatever_the_owner_does(client: httpx.AsyncClient) -> None:
    shown = await client.get("/$name/k1")
    value, state, age = shown.json()
    assert shown.status_code == 200
    assert state in ("fresh", "stale", "absent")
""")
