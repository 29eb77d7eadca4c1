"""The stacks that the marketplace is proven on: URLs of engines that nobody else uses, and how to take them away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from chimera.entities import table_of
from chimera.run.engines import open_engine
from chimera_faults import sweeping
from marketplace.check import Difference, compare, recount
from marketplace.orders.model import Order
from tests.adapters.services import url_of
from tests.e2e.conftest import ROOT, Chimera
from tests.e2e.witness.witness import Watched

SERVICES = ("orders", "analytics", "top-clients", "gig-page", "user-page", "search", "witness")
STACKS = ("embedded", "rabbitmq-mysql-mongodb-redis", "kafka-mysql-mongodb-redis", "kafka-postgresql")
TROUBLED = ("rabbitmq-mysql", "kafka-postgresql")
WITNESS_S = 90.0
WATCHED_SERVICES = ("orders", "analytics", "witness")


class Stack(NamedTuple):
    """The settings that make a stack; `tag` is in every name that is made on its servers."""

    name: str
    tag: str
    environment: Mapping[str, str]

    def store_of(self, service: str, state: str) -> str:
        url = self.environment.get("CHIMERA_STORE", "sqlite:///{state}/{service}.db")
        return url.replace("{service}", service).replace("{state}", state)


def stack(name: str, tag: str) -> Stack:
    """A stack by its name. Skips, or fails with CI=true, where one of its engines is not there."""
    environment: dict[str, str] = {}
    if name.startswith("rabbitmq"):
        environment["CHIMERA_LOG"] = f"{url_of('rabbitmq_stream')}?prefix={tag}-"
    if name.startswith("kafka"):
        environment["CHIMERA_LOG"] = f"{url_of('kafka')}?prefix={tag}-"
    if "mysql" in name:
        server = urlsplit(url_of("mysql"))._replace(path=f"/{tag}-{{service}}").geturl()
        environment |= {"CHIMERA_STORE": server, "CHIMERA_VIEWS": server}
    if "mongodb" in name:
        documents, cache = urlsplit(url_of("mongodb")), f"{url_of('redis')}?prefix={tag}"
        environment["CHIMERA_VIEWS"] = documents._replace(path=f"/{tag}-{{service}}").geturl()
        environment |= {"CHIMERA_SERVICES__WITNESS__VIEWS": cache, "CHIMERA_LAST_KNOWN": cache}
    if "postgresql" in name:
        environment["CHIMERA_STORE"] = f"{url_of('postgresql')}?schema={tag}-{{service}}"
        environment["CHIMERA_VIEWS"] = f"{url_of('postgresql')}?schema={tag}-{{service}}-views"
    return Stack(name, tag, environment)


class Compared(NamedTuple):
    """What is served, beside the source of truth and beside the order in which things happened."""

    orders: int
    dashboards: int
    differences: list[Difference]
    events: int
    broken: int


async def compared(stack: Stack, chimera: Chimera, events: int) -> Compared:
    """Every dashboard beside a recount of the orders; how many events the witness saw, and how many out of order.

    The load does not wait for the witness, so this does, for a while, until it has seen so many `events`.
    """
    store = stack.store_of("orders", str(chimera.state))
    sellers, days = await recount(store)
    expected = {f"/sellers/{seller}/sales": sales for seller, sales in sellers.items()}
    expected |= {f"/sellers/{seller}/sales?by=day": by_day for seller, by_day in days.items()}
    order_ids = await _order_ids(store)
    give_up_at = time.monotonic() + WITNESS_S
    while True:
        watched = await _watched(chimera, order_ids)
        if sum(order.events for order in watched) >= events or time.monotonic() > give_up_at:
            break
        await asyncio.sleep(0.2)
    return Compared(
        sum(sales["orders"] for sales in sellers.values()),
        len(expected),
        await compare(expected, chimera.base),
        sum(order.events for order in watched),
        sum(order.broken for order in watched),
    )


async def _order_ids(store: str) -> list[str]:
    engine = open_engine("store", store)
    try:
        await engine.create([table_of(Order)], 8)
        async with engine.snapshot() as session:
            return [row[0] for row in await session.execute("SELECT order_id FROM orders")]
    finally:
        await engine.close()


async def _watched(chimera: Chimera, order_ids: Sequence[str]) -> list[Watched]:
    room = asyncio.Semaphore(16)

    async def get(order_id: str) -> Watched:
        async with room, session.get(f"{chimera.base}/watched/{order_id}") as response:
            if response.status == 404:
                return Watched(order_id)
            assert response.status == 200, f"{order_id}: {response.status} {await response.text()}"
            return msgspec.json.decode(await response.read(), type=Watched)

    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*map(get, order_ids))


async def take_away(stack: Stack) -> None:
    """Delete everything that a stack has made on its servers."""
    await sweeping.take_away(stack.name, stack.tag, dict.fromkeys(SERVICES, 8))
    if "mongodb" in stack.name:
        await asyncio.gather(_drop_documents(stack.tag), _forget(stack.tag))


def restart(server: str) -> None:
    """Stop and start a server as `make services` knows it."""
    command = [sys.executable, str(ROOT / "services" / "run.py"), "restart", server]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


async def _drop_documents(tag: str) -> None:
    server: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url_of("mongodb"))
    async with server as client:
        for name in await client.list_database_names():
            if name.startswith(f"{tag}-"):
                await client.drop_database(name)


async def _forget(tag: str) -> None:
    async with Redis.from_url(url_of("redis")) as client:
        async for key in client.scan_iter(f"{tag}*", count=1000):
            await client.unlink(key)
