"""A service with FastAPI and FastStream: a route, and a subscriber on RabbitMQ, in one process."""

import os

from fastapi import FastAPI
from faststream.rabbit.fastapi import RabbitRouter
from pydantic import BaseModel

router = RabbitRouter(os.environ["BENCH_AMQP"])


class PlaceOrder(BaseModel):
    order_id: str


@router.post("/orders", status_code=201)
async def accept(order: PlaceOrder) -> PlaceOrder:
    await router.broker.publish(order, os.environ["BENCH_QUEUE"])
    return order


@router.subscriber(os.environ["BENCH_QUEUE"])
async def place(order: PlaceOrder) -> None:
    """Nothing comes."""


app = FastAPI()
app.include_router(router)
