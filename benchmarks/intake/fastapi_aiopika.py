"""FastAPI with aio-pika: a persistent message per request, confirmed before the answer.

The queue is a stream, which is what Chimera appends to: confirmed means the same for both.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from fastapi import FastAPI

from benchmarks.intake.order import PlaceOrder

QUEUE = os.environ["BENCH_QUEUE"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    connection = await aio_pika.connect_robust(os.environ["BENCH_AMQP"])
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "stream"})
        app.state.exchange = channel.default_exchange
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def place_order(order: PlaceOrder) -> dict[str, str]:
    message = aio_pika.Message(
        order.model_dump_json().encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    await app.state.exchange.publish(message, routing_key=QUEUE)
    return {"order_id": order.order_id}
