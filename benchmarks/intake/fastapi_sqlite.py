"""FastAPI with aiosqlite: a row per request in a queue table, committed with synchronous=FULL."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiosqlite
from fastapi import FastAPI

from benchmarks.intake.order import PlaceOrder


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiosqlite.connect(os.environ["BENCH_FILE"]) as connection:
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        await connection.execute("CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY, data TEXT)")
        app.state.connection = connection
        app.state.turn = asyncio.Lock()
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def place_order(order: PlaceOrder) -> dict[str, str]:
    async with app.state.turn:
        await app.state.connection.execute("INSERT INTO queue (data) VALUES (?)", (order.model_dump_json(),))
        await app.state.connection.commit()
    return {"order_id": order.order_id}
