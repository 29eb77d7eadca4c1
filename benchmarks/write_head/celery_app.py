"""Celery with SQLAlchemy: a task per command, a transaction for each, acknowledged after it (`acks_late`)."""

import os
import sys
from typing import Any

from celery import Celery
from celery.signals import worker_init
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from benchmarks.write_head.tables import Base, Order, apply
from benchmarks.write_head.work import orders

DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
scheme, _, rest = os.environ["BENCH_URL"].partition(":")

app = Celery("orders", broker=os.environ["BENCH_AMQP"])
app.conf.task_default_queue = os.environ["BENCH_QUEUE"]
app.conf.task_acks_late = True
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 32
app.conf.broker_transport_options = {"confirm_publish": True}
engine = create_engine(f"{DRIVERS[scheme]}:{rest}", pool_size=1)
sessions = sessionmaker(engine, expire_on_commit=False)


@worker_init.connect
def create_tables(**_: Any) -> None:
    with engine.begin() as connection:
        if scheme == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        Base.metadata.create_all(connection)
    engine.dispose()


@app.task(name="place_order")
def place_order(command: dict[str, Any]) -> None:
    with sessions.begin() as session:
        session.add_all(apply(session.get(Order, command["order_id"]), command))


if __name__ == "__main__":
    for order in orders(int(sys.argv[1])):
        place_order.delay(order)
