"""Databases and prefixes of a benchmark's own on the engines of `make services`, and how to take them away."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import aio_pika
import asyncmy
import asyncpg
from confluent_kafka.admin import AdminClient, NewTopic
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from benchmarks.harness import OTHERS, ROOT

SERVICES = Path(os.environ.get("CHIMERA_SERVICES", ROOT / ".services"))


def url_of(engine: str) -> str:
    """A server's URL. Raises RuntimeError when it was not started."""
    known = json.loads((SERVICES / "urls.json").read_text())["urls"] if (SERVICES / "urls.json").exists() else {}
    if engine not in known:
        raise RuntimeError(f"{engine} was not started; run: make services")
    return str(known[engine])


class Place(NamedTuple):
    """Where a benchmark keeps its things: a folder for files, a name that is in everything it makes on servers.

    `used` are the engines on which it may have made something; `queues` those of RabbitMQ that it did.
    """

    folder: Path
    tag: str
    used: set[str]
    queues: set[str]

    def url(self, engine: str, name: str = "data") -> str:
        """A database of this place: an SQLite file, a database on a server, or Redis with a prefix."""
        self.used.add(engine)
        match engine:
            case "sqlite":
                return f"sqlite:///{self.folder}/{name}.db"
            case "redis":
                return f"{url_of(engine)}?prefix={self.tag}-{name}"
            case _:
                return urlsplit(url_of(engine))._replace(path=f"/{self.tag}_{name}").geturl()

    def log(self, engine: str, *services: str) -> str:
        """Where these services' topics are kept."""
        self.used.add(engine)
        match engine:
            case "sqlite":
                return f"sqlite:///{self.folder}/log"
            case "rabbitmq":
                topics = [f"{service}.{kind}" for service in services for kind in ("commands", "events")]
                self.queues.update(f"{self.tag}-{topic}-{partition}" for topic in topics for partition in range(8))
                return f"{url_of('rabbitmq_stream')}?prefix={self.tag}-"
            case _:
                return f"{url_of('kafka')}?prefix={self.tag}-"

    def config(self, services: Mapping[str, str]) -> Path:
        """A chimera.toml with these services."""
        path = self.folder / "chimera.toml"
        path.write_text("".join(f'[services.{name}]\napp = "{app}"\n' for name, app in services.items()))
        return path


@contextmanager
def place() -> Iterator[Place]:
    """A place that is taken away at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_beside()) as folder:
        found = Place(Path(folder), f"bench{uuid.uuid4().hex[:8]}", set(), set())
        try:
            yield found
        finally:
            asyncio.run(_take_away(found))


def _beside() -> Path:
    """A folder on the disk that the engines are on, so that all sync to the same one."""
    folder = ROOT / ".bench" / "state"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def make(url: str) -> None:
    """Make the database of a URL, where its engine has such a thing and it is not there."""
    name = urlsplit(url).path.strip("/")
    if url.startswith("postgresql"):
        await _run_postgresql(f'CREATE DATABASE "{name}"')
    elif url.startswith("mysql"):
        await _run_mysql(f"CREATE DATABASE `{name}`")


async def make_topic(name: str) -> None:
    """Make a topic of Kafka, for those who do not make their own."""
    admin = AdminClient({"bootstrap.servers": urlsplit(url_of("kafka")).netloc})
    for made in admin.create_topics([NewTopic(name, num_partitions=8)]).values():
        await asyncio.to_thread(made.result, 20)


async def _take_away(where: Place) -> None:
    for engine in where.used & _AWAY.keys():
        await _AWAY[engine](where)


async def _drop_from_postgresql(where: Place) -> None:
    for name in await _run_postgresql("SELECT datname FROM pg_database"):
        if name.startswith(where.tag):
            await _run_postgresql(f'DROP DATABASE "{name}" WITH (FORCE)')


async def _drop_from_mysql(where: Place) -> None:
    for name in await _run_mysql("SHOW DATABASES"):
        if name.startswith(where.tag):
            await _run_mysql(f"DROP DATABASE `{name}`")


async def _drop_from_mongodb(where: Place) -> None:
    async with AsyncMongoClient(url_of("mongodb")) as client:
        for name in await client.list_database_names():
            if name.startswith(where.tag):
                await client.drop_database(name)


async def _drop_from_redis(where: Place) -> None:
    async with Redis.from_url(url_of("redis")) as redis:
        async for key in redis.scan_iter(f"{where.tag}*", count=1000):
            await redis.unlink(key)


async def _drop_from_rabbitmq(where: Place) -> None:
    connection = await aio_pika.connect(url_of("rabbitmq"))
    async with connection, connection.channel() as channel:
        for name in where.queues:
            await channel.queue_delete(name)


async def _drop_from_kafka(where: Place) -> None:
    admin = AdminClient({"bootstrap.servers": urlsplit(url_of("kafka")).netloc})
    made = [name for name in admin.list_topics(timeout=10).topics if name.startswith(where.tag)]
    for deleted in admin.delete_topics(made).values() if made else ():
        await asyncio.to_thread(deleted.result, 20)


_AWAY = {
    "postgresql": _drop_from_postgresql,
    "mysql": _drop_from_mysql,
    "mongodb": _drop_from_mongodb,
    "redis": _drop_from_redis,
    "rabbitmq": _drop_from_rabbitmq,
    "kafka": _drop_from_kafka,
}


async def _run_postgresql(sql: str) -> list[str]:
    connection = await asyncpg.connect(url_of("postgresql"))
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def _run_mysql(sql: str) -> list[str]:
    server = urlsplit(url_of("mysql"))
    connection = await asyncmy.connect(
        host=server.hostname, port=server.port, user=server.username, password=server.password
    )
    async with connection, connection.cursor() as cursor:
        await cursor.execute(sql)
        return [row[0] for row in await cursor.fetchall()]


@contextmanager
def engines_on_other_cores() -> Iterator[None]:
    """Keep the servers that `make services` started off the measured core, for as long as the block lasts."""
    before: dict[int, set[int]] = {}
    for pid in _pids():
        before[pid] = os.sched_getaffinity(pid)
        _put(pid, OTHERS)
    try:
        yield
    finally:
        for pid in _pids():
            _put(pid, before.get(pid) or next(iter(before.values())))


def _pids() -> list[int]:
    """Every thread of the servers, by the records that services/run.py keeps."""
    roots = {json.loads(path.read_text())[0] for path in (SERVICES / "run").glob("*.json")}
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "stat").exists():
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return [int(task.name) for pid in found for task in Path(f"/proc/{pid}/task").glob("*")]


def _put(pid: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):
        os.sched_setaffinity(pid, cores)
