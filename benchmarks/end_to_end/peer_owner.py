"""The owner with FastAPI, SQLAlchemy and FastStream: rows and an outbox in one transaction; the outbox is polled."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI
from faststream.kafka import KafkaBroker
from faststream.rabbit import RabbitBroker
from pydantic import BaseModel
from sqlalchemy import delete, select

from benchmarks.end_to_end.peer_tables import Base, Order, Outbox, open_sessions

engine, sessions = open_sessions()
POLL_S = 0.05
PAGE = 500
QUEUE = os.environ["BENCH_QUEUE"]
LOG = os.environ["CHIMERA_LOG"]
broker = (
    KafkaBroker(urlsplit(LOG).netloc, acks="all") if LOG.startswith("kafka") else RabbitBroker(os.environ["BENCH_AMQP"])
)


class PutOrder(BaseModel):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    note: str = ""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with broker:
        await broker.start()
        polling = asyncio.ensure_future(_poll())
        yield
        polling.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/direct-orders", status_code=201)
async def put_order(order: PutOrder) -> dict[str, str]:
    async with sessions.begin() as session:
        session.add(Order(**order.model_dump()))
        session.add(Outbox(data=order.model_dump_json()))
    return {"order_id": order.order_id}


async def _poll() -> None:
    while True:
        if await _publish() < PAGE:
            await asyncio.sleep(POLL_S)


async def _publish() -> int:
    """Publish the oldest rows, and delete them once the broker has confirmed them."""
    async with sessions.begin() as session:
        rows = (await session.scalars(select(Outbox).order_by(Outbox.id).limit(PAGE))).all()
        await asyncio.gather(*(_send(row.data) for row in rows))
        if rows:
            await session.execute(delete(Outbox).where(Outbox.id.in_([row.id for row in rows])))
    return len(rows)


async def _send(data: str) -> None:
    if isinstance(broker, RabbitBroker):
        await broker.publish(data.encode(), queue=QUEUE, persist=True, content_type="application/json")
    else:
        await broker.publish(data.encode(), topic=QUEUE)
