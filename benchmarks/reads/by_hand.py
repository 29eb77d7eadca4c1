"""The drivers alone: a table `documents` (key, data), or what an engine has in its place; one key, or many at once."""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

Many = Callable[[str, Sequence[str]], Awaitable[Mapping[str, bytes]]]
POOL = 8


async def open_many(url: str) -> Many:
    """Documents of a table by key, many keys in one round trip."""
    return await _MANY[urlsplit(url).scheme](url)


async def _many_sqlite(url: str) -> Many:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)

    async def many(table: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        marks = ",".join("?" * len(keys))
        return dict(connection.execute(f"SELECT key, data FROM {table} WHERE key IN ({marks})", keys))  # noqa: S608

    return many


async def _many_postgresql(url: str) -> Many:
    pool = await postgresql_pool(url)

    async def many(table: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        return dict(await pool.fetch(f"SELECT key, data FROM {table} WHERE key = ANY($1)", keys))  # noqa: S608

    return many


async def _many_mysql(url: str) -> Many:
    pool = await mysql_pool(url)

    async def many(table: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        marks = ",".join(["%s"] * len(keys))
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(f"SELECT `key`, data FROM {table} WHERE `key` IN ({marks})", keys)  # noqa: S608
            return dict(await cursor.fetchall())

    return many


async def _many_mongodb(url: str) -> Many:
    database = mongodb(url)

    async def many(table: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        return {found["_id"]: found["data"] async for found in database[table].find({"_id": {"$in": list(keys)}})}

    return many


async def _many_redis(url: str) -> Many:
    redis, prefix = open_redis(url)

    async def many(table: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        found = await redis.mget([f"{prefix}:{table}:{key}" for key in keys])
        return {key: data for key, data in zip(keys, found, strict=True) if data is not None}

    return many


_MANY: dict[str, Callable[[str], Awaitable[Many]]] = {
    "sqlite": _many_sqlite,
    "postgresql": _many_postgresql,
    "mysql": _many_mysql,
    "mongodb": _many_mongodb,
    "redis": _many_redis,
}


async def postgresql_pool(url: str) -> Any:
    import asyncpg

    return await asyncpg.create_pool(url, min_size=POOL, max_size=POOL)


async def mysql_pool(url: str) -> Any:
    import asyncmy

    at = urlsplit(url)
    where = {"host": at.hostname, "port": at.port, "user": at.username, "password": at.password}
    return await asyncmy.create_pool(minsize=POOL, maxsize=POOL, autocommit=True, database=at.path.strip("/"), **where)


def mongodb(url: str) -> Any:
    from pymongo import AsyncMongoClient

    return AsyncMongoClient(url)[urlsplit(url).path.strip("/")]


def open_redis(url: str) -> tuple[Any, str]:
    """A client, and the prefix that the URL names."""
    from redis.asyncio import Redis

    address, _, query = url.partition("?")
    return Redis.from_url(address), parse_qs(query)["prefix"][0]


async def fill(url: str, table: str, documents: Mapping[str, bytes]) -> None:
    """Put the documents where the readers above look for them; MongoDB also gets them as documents of its own."""
    match urlsplit(url).scheme:
        case "sqlite":
            connection = sqlite3.connect(url.removeprefix("sqlite:///"))
            with connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"CREATE TABLE {table} (key TEXT PRIMARY KEY, data BLOB) WITHOUT ROWID")
                connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", documents.items())  # noqa: S608
            connection.close()
        case "postgresql":
            pool = await postgresql_pool(url)
            await pool.execute(f"CREATE TABLE {table} (key text PRIMARY KEY, data bytea)")
            await pool.copy_records_to_table(table, records=list(documents.items()))
            await pool.execute(f"VACUUM ANALYZE {table}")
            await pool.close()
        case "mysql":
            pool = await mysql_pool(url)
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute(f"CREATE TABLE {table} (`key` varchar(190) PRIMARY KEY, data blob)")
                rows = list(documents.items())
                for start in range(0, len(rows), 1000):
                    await cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", rows[start : start + 1000])  # noqa: S608
            pool.close()
            await pool.wait_closed()
        case "mongodb":
            database = mongodb(url)
            rows = [{"_id": key, "data": data} for key, data in documents.items()]
            for start in range(0, len(rows), 1000):
                await database[table].insert_many(rows[start : start + 1000])
            await database.client.close()
        case "redis":
            redis, prefix = open_redis(url)
            await redis.mset({f"{prefix}:{table}:{key}": data for key, data in documents.items()})
            await redis.aclose()
