"""The check recounts the orders with SQL, in whatever store they are, and finds what differs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from chimera.entities import table_of
from chimera.ports import Store
from marketplace.check import compare, main, recount
from marketplace.orders.messages import Stage
from marketplace.orders.model import Order
from marketplace.orders.service import orders

MIDNIGHT = datetime(2025, 1, 2, tzinfo=UTC)
TICK = timedelta(microseconds=1)
NONE = dict.fromkeys(("placed", "paid", "started", "delivered", "completed", "cancelled"), 0)


def order(
    order_id: str, amount_cents: int, stage: Stage = "placed", at: datetime = MIDNIGHT, seller_id: str = "s"
) -> Order:
    return Order(order_id, "b", seller_id, "g", amount_cents, stage, at, at + timedelta(days=9))


PLACED = [
    order("o1", 10**12, "paid", MIDNIGHT - TICK),
    order("o2", 7, "cancelled"),
    order("o3", 11, "completed"),
    order("o4", 13, "paid", MIDNIGHT + timedelta(days=1) - TICK),
    order("o5", 17, "cancelled", seller_id="t"),
]
Dashboards = dict[str, dict[str, Any]]
SALES: Dashboards = {
    "s": {
        "seller_id": "s",
        "orders": 4,
        "stages": NONE | {"paid": 2, "cancelled": 1, "completed": 1},
        "revenue_cents": 10**12 + 24,
    },
    "t": {"seller_id": "t", "orders": 1, "stages": NONE | {"cancelled": 1}, "revenue_cents": 0},
}
DAYS: Dashboards = {
    "s": {
        "seller_id": "s",
        "days": [
            {"day": "2025-01-01", "orders": 1, "stages": NONE | {"paid": 1}, "revenue_cents": 10**12},
            {
                "day": "2025-01-02",
                "orders": 3,
                "stages": NONE | {"cancelled": 1, "completed": 1, "paid": 1},
                "revenue_cents": 24,
            },
        ],
    },
    "t": {
        "seller_id": "t",
        "days": [{"day": "2025-01-02", "orders": 1, "stages": NONE | {"cancelled": 1}, "revenue_cents": 0}],
    },
}


@pytest.fixture
async def url(store: Store, store_url: str) -> str:
    """A store that holds these orders."""
    table = table_of(Order)
    await store.create([table], orders.partitions)
    async with store.transaction() as session:
        await session.save(table, [table.to_row(each) for each in PLACED])
    return store_url


@pytest.fixture
async def dashboards() -> AsyncIterator[tuple[Dashboards, str]]:
    """An analytics service that says what it should, until `sales` is changed."""
    sales = {f"/sellers/{seller}/sales": SALES[seller] for seller in SALES}
    sales |= {f"/sellers/{seller}/sales?by=day": DAYS[seller] for seller in DAYS}

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(sales[request.path_qs]) if request.path_qs in sales else web.Response(status=404)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with TestServer(application) as server:
        yield sales, str(server.make_url("")).rstrip("/")


async def check(*arguments: object) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, [*map(str, arguments)])


async def test_orders_are_recounted_by_seller_and_by_day_in_utc(url: str) -> None:
    assert await recount(url) == (SALES, DAYS)


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_a_day_is_one_in_utc_whatever_zone_a_session_is_in(url: str) -> None:
    assert await recount(f"{url}&timezone=America/Sao_Paulo") == (SALES, DAYS)


async def test_what_is_served_otherwise_is_found(dashboards: tuple[Dashboards, str]) -> None:
    served, base = dashboards
    expected = dict(served)
    assert await compare(expected, base) == []
    served["/sellers/s/sales"] = SALES["s"] | {"orders": 5}
    del served["/sellers/t/sales?by=day"]
    found = await compare(expected, base)
    assert [difference.path for difference in found] == ["/sellers/s/sales", "/sellers/t/sales?by=day"]


async def test_the_command_ends_with_0_when_all_is_equal_and_with_1_when_not(
    url: str, dashboards: tuple[Dashboards, str]
) -> None:
    served, base = dashboards
    equal = await check("--store", url, "--base", base)
    assert (equal.exit_code, equal.output) == (0, "compared 4 dashboards of 2 sellers with 5 orders: 0 differ\n")
    served["/sellers/t/sales"] = SALES["s"]
    unequal = await check("--store", url, "--base", f"{base}/")
    assert unequal.exit_code == 1
    assert f"/sellers/t/sales\n  recount {SALES['t']}\n  served  {SALES['s']}\n" in unequal.output
    assert unequal.output.endswith("1 differ\n")


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_the_folder_or_the_file_of_an_embedded_store_may_be_named_instead(
    url: str, dashboards: tuple[Dashboards, str], tmp_path: Path
) -> None:
    _, base = dashboards
    file = url.removeprefix("sqlite:///")
    (tmp_path / "orders.db").symlink_to(file)
    for arguments in (["--orders-db", file], ["--state", tmp_path]):
        assert (await check(*arguments, "--base", base)).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say where the orders are: --store URL"),
        (["--state", "nowhere"], "there is no nowhere/orders.db"),
        (["--store", "oracle://me:hunter2@db/shop"], "no engine is called 'oracle'"),
        (["--store", "redis://me:hunter2@127.0.0.1:9/0"], "redis can't be a store"),
        (["--store", "postgresql://me:hunter2@127.0.0.1:9/shop"], "postgresql://me@127.0.0.1:9/shop"),
        (["--store", "mysql://me:hunter2@127.0.0.1:9/shop"], "mysql://me@127.0.0.1:9/shop"),
        (["--store", "memory://orders"], "no such SQL"),
    ],
)
async def test_orders_that_can_not_be_read_end_the_command_with_a_plain_message(
    arguments: list[str], says: str
) -> None:
    ended = await check(*arguments, "--base", "http://127.0.0.1:9")
    assert ended.exit_code in (1, 2)
    assert says in ended.output
    assert "hunter2" not in ended.output
    assert ended.exception is None or isinstance(ended.exception, SystemExit)


async def test_a_store_without_orders_is_no_success(tmp_path: Path) -> None:
    ended = await check("--store", f"sqlite:///{tmp_path}/other.db", "--base", "http://127.0.0.1:9")
    assert ended.exit_code == 1
    assert "there are no orders in this store" in ended.output


async def test_an_analytics_service_that_is_not_there_ends_the_command_with_a_plain_message(url: str) -> None:
    ended = await check("--store", url, "--base", "http://127.0.0.1:9")
    assert (ended.exit_code, ended.output[:34]) == (1, "Error: http://127.0.0.1:9: Cannot ")
