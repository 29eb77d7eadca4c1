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

run: ## Run the service on http://127.0.0.1:8000, with who is on this machine as its operator
	@$(PYTHON) -m chimera up --dev

test: ## Run the tests, after what they need is installed
	@$(PYTHON) -c 'import httpx, pytest' 2>/dev/null || $(PIP) install --quiet --requirement requirements-dev.txt
	@$(PYTHON) -m pytest

check: ## Say whether it would start, and as what
	@$(PYTHON) -m chimera check
"""

REQUIREMENTS = "chimera-kit\n"
REQUIREMENTS_DEV = "--requirement requirements.txt\nchimera-kit[testing]\npytest\n"
IGNORED = ".state/\n.venv/\n__pycache__/\n.pytest_cache/\n"
PYTEST = """\
[pytest]
addopts = -q
pythonpath = .
testpaths = tests
"""

CONFTEST = '''\
"""What the tests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
'''

TESTS = Template('''\
"""A fold is a function, tested as one; a handler by what it emits; the whole service in memory, over HTTP."""

import pytest
from $module import OrderPlaced, PlaceOrder, Sales, $module, order_counted

from chimera.testing import given, running


def test_an_order_counts_for_its_seller() -> None:
    sale = Sales("ann")
    order_counted(sale, OrderPlaced("o1", "ann", 1200))
    assert sale == Sales("ann", orders=1, revenue_cents=1200)


@pytest.mark.anyio
async def test_an_order_is_placed_unless_it_is_of_nothing() -> None:
    await given($module).when(PlaceOrder("o1", "ann", 1200)).then(OrderPlaced("o1", "ann", 1200))
    await given($module).when(PlaceOrder("o2", "ann", 0)).rejected("nothing_to_pay")


@pytest.mark.anyio
async def test_an_order_is_shown_to_its_seller() -> None:
    async with running($module) as s:
        placed = await s.post("/orders", {"order_id": "o1", "seller_id": "ann", "amount_cents": 1200})
        assert placed.status_code == 201
        await s.settled()
        shown = await s.get("/sellers/ann/sales")
        assert shown.json() == {"seller_id": "ann", "orders": 1, "revenue_cents": 1200}
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
import pytest
from $module import $app

from chimera.testing import running


@pytest.mark.anyio
async def test_it_is_done() -> None:
    async with running($app) as s:
        accepted = await s.post("/$path", {$json})
        assert accepted.status_code == 201
        await s.settled()
        done = await s.get(f"/_chimera/$service/commands/{accepted.json()['command_id']}")
        assert done.json()["state"] == "done"
""")

VIEW_TEST = Template("""\
import pytest
from $module import $app

from chimera.testing import running


@pytest.mark.anyio
async def test_it_is_empty_before_the_first_event() -> None:
    async with running($app) as s:
        shown = await s.get("/$path/k1")
        assert (shown.status_code, shown.json()) == (200, {"$key": "k1", "count": 0})
""")

LIST_TEST = Template("""\
import pytest
from $module import $app

from chimera.testing import running


@pytest.mark.anyio
async def test_it_has_nothing_before_the_first_event() -> None:
    async with running($app) as s:
        await s.settled()
        page = await s.get("/$asked")
        assert (page.status_code, page.json()["items"], page.json()["count"]) == (200, [], 0)
""")

SHARE_TEST = Template("""\
import pytest
from $module import $app

from chimera.testing import running


@pytest.mark.anyio
async def test_a_document_for_each_key() -> None:
    async with running($app) as s:
        shared = await s.get("/_chimera/$service/share/$name?key=k1&key=k2")
        assert shared.json()["documents"] == {"k1": {"$key": "k1"}, "k2": {"$key": "k2"}}
""")

BORROW_TEST = Template("""\
import pytest
from $module import $app
from $owner_module import $owner_app

from chimera.testing import running


@pytest.mark.anyio
async def test_the_page_answers_whatever_the_owner_does() -> None:
    async with running($app, owners=[$owner_app]) as s:
        assert (await s.get("/$name/k1")).status_code == 200
        with s.owner_down("$owner"):
            _, state, _ = (await s.get("/$name/k2")).json()
            assert state == "absent"
""")
