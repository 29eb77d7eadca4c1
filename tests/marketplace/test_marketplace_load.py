from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from marketplace.load import SERVICES, Consumed, caught_up, load, main
from marketplace.orders.messages import Stage
from marketplace.orders.model import refusal
from marketplace.requests import Request, Skip, order, stage
from marketplace.seed import Seed


class Marketplace:
    """A make-believe of all six services behind one port. Commands settle when they are first asked about."""

    def __init__(self) -> None:
        self.by_key: dict[str, str] = {}
        self.seen: Counter[str] = Counter()
        self.stages: dict[str, Stage] = {}
        self.outcomes: dict[str, dict[str, str]] = {}
        self.order_of: dict[str, list[str]] = defaultdict(list)
        self.events = 0
        self.hiccups = 3
        self.forget = False

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return self._about_itself(request)
        if self.hiccups:
            self.hiccups -= 1
            return web.Response(status=503)
        key = request.headers["Idempotency-Key"]
        self.seen[key] += 1
        body = await request.json()
        if not request.path.startswith("/orders"):
            return web.json_response(body, status=201)
        if key not in self.by_key:
            self.by_key[key] = str(uuid.uuid4())
            self._handle(self.by_key[key], request.path, body)
        return web.json_response({"command_id": self.by_key[key]}, status=201)

    def _handle(self, command_id: str, path: str, body: dict[str, Any]) -> None:
        order_id = body.get("order_id") or path.split("/")[2]
        wanted: Stage = body.get("stage", "placed")
        self.order_of[order_id].append(wanted)
        if wanted == "placed":
            refused = None
        else:
            refused = refusal(self.stages[order_id], wanted) if order_id in self.stages else ("order_unknown", "")
        if refused:
            self.outcomes[command_id] = {"state": "rejected", "reason": refused[0]}
        else:
            self.stages[order_id] = wanted
            self.events += 1
            self.outcomes[command_id] = {"state": "done"}

    def _about_itself(self, request: web.Request) -> web.Response:
        if request.path.endswith("/commands"):
            asked = request.query.getall("id")
            assert len(asked) <= 100
            unknown = {"state": "unknown"}
            return web.json_response({"commands": {i: unknown if self.forget else self.outcomes[i] for i in asked}})
        if request.path.endswith("/heads"):
            return web.json_response({"heads": {"0": self.events, "1": 0}})
        place = {"consumer": "views", "source": "orders", "partition": 0, "checkpoint": self.events}
        return web.json_response({"consumers": [place | {"head": self.events, "lag": 0}]})


Served = tuple[Marketplace, dict[str, str]]


class Few:
    name = "few"

    def __init__(self) -> None:
        self.notes: Counter[str] = Counter()

    def total(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Request | Skip]:
        at = datetime(2025, 1, 1, tzinfo=UTC)
        yield order("o1", "b", "s", "g", 5, at)
        yield stage("o2", "paid", at)
        yield Skip("order", "no_items")
        yield stage("o1", "cancelled")


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    marketplace, application = Marketplace(), web.Application()
    application.router.add_route("*", "/{path:.*}", marketplace.answer)
    async with TestServer(application) as server:
        yield marketplace, dict.fromkeys(SERVICES, str(server.make_url("")))


async def test_a_load_accounts_for_everything(served: Served) -> None:
    _, bases = served
    account = await load(Few(), bases)
    assert account.balances
    assert account.refused == {("stage", "order_unknown"): 1}
    assert account.skipped == {("order", "no_items"): 1}
    assert "check: order events 4 = applied 2 + refused 1 + parked 0 + skipped 1: balances" in account.lines()
    assert account.events == 2


async def test_loading_twice_sends_the_same_keys_and_changes_nothing(served: Served) -> None:
    marketplace, bases = served
    first = await load(Seed(), bases)
    events, stages = marketplace.events, dict(marketplace.stages)
    second = await load(Seed(), bases, workers=3)
    assert first.balances
    assert second.balances
    assert (marketplace.events, marketplace.stages) == (events, stages)
    assert set(marketplace.seen.values()) == {2}
    assert second.events == 0


async def test_one_orders_requests_arrive_in_their_order(served: Served) -> None:
    marketplace, bases = served
    await load(Seed(), bases)
    wanted = defaultdict(list)
    for item in Seed():
        if item.service == "orders":
            wanted[item.key].append(item.body.get("stage", "placed"))
    assert marketplace.order_of == wanted


async def test_a_command_that_never_settles_is_reported(served: Served) -> None:
    marketplace, bases = served
    marketplace.forget = True
    account = await load(Few(), bases, stall=0.2)
    assert not account.balances
    assert account.unsettled == {"order": 1, "stage": 2}
    assert any("DOES NOT BALANCE" in line for line in account.lines())


def test_dashboards_are_caught_up_when_every_consumer_has_every_partition() -> None:
    heads = {0: 2, 1: 0, 2: 1}
    reached = [Consumed("views", "orders", 0, 2), Consumed("views", "orders", 2, 1)]
    assert caught_up(heads, reached)
    assert not caught_up(heads, [*reached, Consumed("other", "orders", 0, 2)])
    assert not caught_up(heads, [])
    assert caught_up({0: 0}, [])


def test_a_service_that_is_not_there_ends_the_command_with_a_plain_message() -> None:
    ended = CliRunner().invoke(main, ["--base", "http://127.0.0.1:9", "--patience", "0.1"])
    assert ended.exit_code == 1
    assert "gave up: ClientConnectorError" in ended.output
