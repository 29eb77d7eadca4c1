"""The other service with FastAPI and FastStream: a subscriber that writes the view, a route that reads it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException
from faststream.kafka.fastapi import KafkaRouter
from faststream.rabbit import Channel, RabbitQueue
from faststream.rabbit.fastapi import RabbitRouter
from pydantic import BaseModel
from pymongo import AsyncMongoClient

from benchmarks.end_to_end.peer_tables import Base, Watched, open_sessions

QUEUE = os.environ["BENCH_QUEUE"]
LOG = os.environ["CHIMERA_LOG"]
URL = os.environ["BENCH_URL"]


class OrderPlaced(BaseModel):
    order_id: str
    amount_cents: int


router: Any
if LOG.startswith("kafka"):
    router = KafkaRouter(urlsplit(LOG).netloc)
    subscriber = router.subscriber(QUEUE, group_id="viewer", auto_offset_reset="earliest")
else:
    router = RabbitRouter(os.environ["BENCH_AMQP"])
    subscriber = router.subscriber(RabbitQueue(QUEUE, durable=True), channel=Channel(prefetch_count=64))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await watched_orders.open()
    yield


app = FastAPI(lifespan=lifespan)


class InTable:
    """The view in a table, by SQLAlchemy."""

    def __init__(self) -> None:
        self._engine, self._sessions = open_sessions()

    async def open(self) -> None:
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    async def put(self, order_id: str, amount_cents: int) -> None:
        async with self._sessions.begin() as session:
            await session.merge(Watched(order_id=order_id, amount_cents=amount_cents))

    async def get(self, order_id: str) -> int | None:
        async with self._sessions() as session:
            found = await session.get(Watched, order_id)
            return found and found.amount_cents


class InMongoDB:
    """The view in a collection, by its driver."""

    def __init__(self) -> None:
        self._collection = AsyncMongoClient(URL)[urlsplit(URL).path.strip("/")]["watched"]

    async def open(self) -> None:
        pass

    async def put(self, order_id: str, amount_cents: int) -> None:
        await self._collection.replace_one({"_id": order_id}, {"amount_cents": amount_cents}, upsert=True)

    async def get(self, order_id: str) -> int | None:
        found = await self._collection.find_one({"_id": order_id})
        return found and found["amount_cents"]


watched_orders = InMongoDB() if URL.startswith("mongodb") else InTable()


@subscriber
async def placed(event: OrderPlaced) -> None:
    await watched_orders.put(event.order_id, event.amount_cents)


app.include_router(router)


@app.get("/watched/{order_id}")
async def watched(order_id: str) -> dict[str, object]:
    amount_cents = await watched_orders.get(order_id)
    if amount_cents is None:
        raise HTTPException(404)
    return {"order_id": order_id, "amount_cents": amount_cents}
