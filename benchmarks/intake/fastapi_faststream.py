"""FastAPI with FastStream's broker: a message published and confirmed per request, to RabbitMQ or Kafka."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI
from faststream.kafka import KafkaBroker
from faststream.rabbit import QueueType, RabbitBroker, RabbitQueue

from benchmarks.intake.order import PlaceOrder

QUEUE = os.environ["BENCH_QUEUE"]
ON_KAFKA = os.environ["CHIMERA_LOG"].startswith("kafka")
broker = (
    KafkaBroker(urlsplit(os.environ["CHIMERA_LOG"]).netloc, acks="all")
    if ON_KAFKA
    else RabbitBroker(os.environ["BENCH_AMQP"])
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with broker:
        await broker.start()
        if isinstance(broker, RabbitBroker):
            await broker.declare_queue(RabbitQueue(QUEUE, queue_type=QueueType.STREAM, durable=True))
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def place_order(order: PlaceOrder) -> dict[str, str]:
    if isinstance(broker, RabbitBroker):
        await broker.publish(order, queue=QUEUE, persist=True)
    else:
        await broker.publish(order, topic=QUEUE, key=order.order_id.encode())
    return {"order_id": order.order_id}
