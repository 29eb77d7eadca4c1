"""FastAPI with Celery: `delay`, confirmed by RabbitMQ, in FastAPI's threads because Celery blocks."""

import os

from celery import Celery
from fastapi import FastAPI

from benchmarks.intake.order import PlaceOrder

tasks = Celery("orders", broker=os.environ["BENCH_AMQP"])
tasks.conf.task_ignore_result = True
tasks.conf.task_default_queue = os.environ["BENCH_QUEUE"] + "-celery"
tasks.conf.broker_transport_options = {"confirm_publish": True}


@tasks.task
def place(order: dict[str, object]) -> None:
    """Done by a worker, which is not what is measured."""


app = FastAPI()


@app.post("/orders", status_code=201)
def place_order(order: PlaceOrder) -> dict[str, str]:
    place.delay(order.model_dump())
    return {"order_id": order.order_id}
