"""FastStream with SQLAlchemy: a message at a time, a session and a transaction for each, acknowledged after the commit.

As many messages are worked on at once as the pool has connections.
"""

import asyncio
import os

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from benchmarks.write_head.tables import Base, Order, apply

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy"}
scheme, _, rest = os.environ["BENCH_URL"].partition(":")
POOL = 1 if scheme == "sqlite" else 16
QUEUE = RabbitQueue(os.environ["BENCH_QUEUE"], durable=True)


class PlaceOrder(BaseModel):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    note: str


engine = create_async_engine(f"{DRIVERS[scheme]}:{rest}", pool_size=POOL, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
broker = RabbitBroker(os.environ["BENCH_AMQP"], default_channel=Channel(prefetch_count=POOL * 4))
app = FastStream(broker)


@app.on_startup
async def create_tables() -> None:
    async with engine.begin() as connection:
        if scheme == "sqlite":
            await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        await connection.run_sync(Base.metadata.create_all)


@broker.subscriber(QUEUE, ack_policy=AckPolicy.NACK_ON_ERROR)
async def place_order(command: PlaceOrder) -> None:
    async with sessions.begin() as session:
        found = await session.get(Order, command.order_id)
        session.add_all(apply(found, command.model_dump()))


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    asyncio.run(app.run(log_level=30))
