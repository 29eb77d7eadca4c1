"""The dashboard without a view: FastAPI with SQLAlchemy, which counts the seller's orders at each request."""

import os

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import Column, Integer, MetaData, String, Table, func, select
from sqlalchemy.ext.asyncio import create_async_engine

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy"}
scheme, _, rest = os.environ["BENCH_URL"].partition(":")
engine = create_async_engine(f"{DRIVERS[scheme]}:{rest}", pool_size=8, max_overflow=0)
orders = Table(
    "orders",
    MetaData(),
    Column("order_id", Integer, primary_key=True),
    Column("seller_id", String(64)),
    Column("status", String(20)),
    Column("amount_cents", Integer),
)
app = FastAPI()


class Sales(BaseModel):
    seller_id: str
    counts: dict[str, int]
    revenue_cents: int


@app.get("/sellers/{seller_id}/sales")
async def sales(seller_id: str) -> Sales:
    counted = (
        select(orders.c.status, func.count(), func.sum(orders.c.amount_cents))
        .where(orders.c.seller_id == seller_id)
        .group_by(orders.c.status)
    )
    async with engine.connect() as connection:
        rows = (await connection.execute(counted)).all()
    return Sales(
        seller_id=seller_id,
        counts={status: count for status, count, _ in rows},
        revenue_cents=sum(int(amount) for _, _, amount in rows),
    )
