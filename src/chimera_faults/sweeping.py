"""Taking away what a rig has made on other people's servers. The drivers are imported where their stack is used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from chimera.core.names import commands_topic, events_topic
from chimera_faults.stacks import url_of


async def take_away(name: str, tag: str, services: Mapping[str, int]) -> None:
    """Delete what has the tag in its name from a stack's log and stores; `services` ran, with so many partitions."""
    if name.startswith("rabbitmq"):
        topics = {topic(each): count for each, count in services.items() for topic in (commands_topic, events_topic)}
        await delete_streams(tag, topics)
    if name.startswith("kafka"):
        await asyncio.to_thread(delete_topics, f"{tag}-")
    if "mysql" in name:
        await _drop_databases(tag)
    if "postgresql" in name:
        await _drop_schemas(tag)


async def delete_streams(tag: str, topics: Mapping[str, int]) -> None:
    """Delete the streams of these topics, which have so many partitions."""
    import aio_pika

    connection = await aio_pika.connect(url_of("rabbitmq"))
    async with connection, connection.channel() as channel:
        for topic, partitions in topics.items():
            for partition in range(partitions):
                await channel.queue_delete(f"{tag}-{topic}-{partition}")


def delete_topics(prefix: str) -> None:
    """Delete the topics whose names begin like this; returns once they are gone."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": urlsplit(url_of("kafka")).netloc})
    made = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    for deleted in admin.delete_topics(made).values() if made else ():
        deleted.result(20)


async def _drop_databases(tag: str) -> None:
    import asyncmy

    server = urlsplit(url_of("mysql"))
    connection = await asyncmy.connect(
        host=server.hostname, port=server.port, user=server.username, password=server.password
    )
    async with connection, connection.cursor() as cursor:
        await cursor.execute("SHOW DATABASES")
        for (name,) in await cursor.fetchall():
            if name.startswith(f"{tag}-"):
                await cursor.execute(f"DROP DATABASE `{name}`")


async def _drop_schemas(tag: str) -> None:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(url_of("postgresql"))
    try:
        for (name,) in await connection.fetch("SELECT schema_name FROM information_schema.schemata"):
            if name.startswith(f"{tag}-"):
                await connection.execute(f'DROP SCHEMA "{name}" CASCADE')
    finally:
        await connection.close()


async def drop_mongodb(tag: str) -> None:
    """Drop the databases whose names begin with the tag."""
    from pymongo import AsyncMongoClient

    async with AsyncMongoClient[dict[str, object]](url_of("mongodb")) as client:
        for name in await client.list_database_names():
            if name.startswith(f"{tag}-"):
                await client.drop_database(name)
