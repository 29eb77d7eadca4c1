"""FastAPI with the engine's own asynchronous driver: a query per request, on a pool."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

from benchmarks.reads.by_hand import mongodb, mysql_pool, open_redis, postgresql_pool

One = Callable[[str], Awaitable[bytes | None]]


class Sales(BaseModel):
    seller_id: str
    name: str
    country: str
    orders: int
    revenue_cents: int
    counts: dict[str, int]
    by_day: dict[str, int]
    updated_at: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.get = await open_one(os.environ["BENCH_URL"])
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/sellers/{seller_id}/sales")
async def sales(seller_id: str) -> Sales:
    return Sales.model_validate_json(await _found(seller_id))


@app.get("/sellers/{seller_id}/stored")
async def stored(seller_id: str) -> Response:
    """The bytes as they are stored: the quickest that FastAPI offers."""
    return Response(await _found(seller_id), media_type="application/json")


async def _found(seller_id: str) -> bytes:
    data = await app.state.get(seller_id)
    if data is None:
        raise HTTPException(404)
    return bytes(data)


async def open_one(url: str, table: str = "documents") -> One:
    return await _OPEN[urlsplit(url).scheme](url, table)


async def _sqlite(url: str, table: str) -> One:
    import aiosqlite

    connection = await aiosqlite.connect(url.removeprefix("sqlite:///"))

    async def one(key: str) -> Any:
        async with connection.execute(f"SELECT data FROM {table} WHERE key = ?", (key,)) as cursor:  # noqa: S608
            row = await cursor.fetchone()
        return row and row[0]

    return one


async def _postgresql(url: str, table: str) -> One:
    pool = await postgresql_pool(url)

    async def one(key: str) -> Any:
        return await pool.fetchval(f"SELECT data FROM {table} WHERE key = $1", key)  # noqa: S608

    return one


async def _mysql(url: str, table: str) -> One:
    pool = await mysql_pool(url)

    async def one(key: str) -> Any:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(f"SELECT data FROM {table} WHERE `key` = %s", (key,))  # noqa: S608
            row = await cursor.fetchone()
        return row and row[0]

    return one


async def _mongodb(url: str, table: str) -> One:
    collection = mongodb(url)[table]

    async def one(key: str) -> Any:
        found = await collection.find_one({"_id": key})
        return found and found["data"]

    return one


async def _redis(url: str, table: str) -> One:
    redis, prefix = open_redis(url)

    async def one(key: str) -> Any:
        return await redis.get(f"{prefix}:{table}:{key}")

    return one


_OPEN: dict[str, Callable[[str, str], Awaitable[One]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mongodb": _mongodb,
    "redis": _redis,
}
