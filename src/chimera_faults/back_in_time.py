"""A database whose rows are put back to an earlier moment, and the topic of events that is made anew."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from chimera.core.names import COMMANDS, commands_topic, events_topic
from chimera.errors import ChimeraError
from chimera.journal.checkpoints import read_checkpoints
from chimera.ports import Log, Record
from chimera.testing.kit.balance import every_row
from chimera_faults.own_user import mysql_connection
from chimera_faults.points import Armed
from chimera_faults.rig import Rig, Run
from chimera_faults.scenario import EMBEDDED
from chimera_faults.stacks import url_of
from chimera_faults.sweeping import delete_streams, delete_topics
from chimera_faults.tally.owner import Account

OWNER, BORROWER = "tally", "board"
NOTICED_S = 60.0
OK = 200
SOME = 20
TRIES = 100
LOCK_S = 0.2
GROWN_S = 180.0
"""So many commands as were there have to come again, from a fleet that has just been started."""
OF_VIEWS = ("chimera_documents", "chimera_view_checkpoints", "chimera_revisions")
"""Tables of a view store that shares its database with the store."""
CONSUMERS = {
    OWNER: ("tally", "sum", "noticed", "told"),
    BORROWER: ("seen", "borrow.standings.async"),
}
"""The consumers of the owner's events whose checkpoints are not in its own store."""

Rows = Mapping[str, list[Any]]
"""The rows of tables, by their names."""
PutBack = Callable[[], Awaitable[None]]


async def put_owner_back(run: Run) -> None:
    """Put the owner's database back to what it was a moment ago, with effects in between that others have seen."""
    rig = run.rig
    before = await _heads(rig)
    await run.until(partial(_has_moved, rig, before), "every partition has events")
    early = await _heads(rig)
    put_back = await _keep(rig)
    await run.until(partial(_was_seen, rig, early), "every consumer has seen later events of every partition")
    await put_back()
    run.struck("the owner's rows were put back to an earlier moment")
    for service, consumers in CONSUMERS.items():
        for consumer in consumers:
            await run.must(
                partial(_is_diverged, run, service, consumer),
                f"{service}'s status says that {consumer} is diverged",
                NOTICED_S,
            )
        await run.must(partial(_is_named, run, service), f"{service}'s readiness names what stands on a lost history")
        word = f"{service}: "
        await run.must(partial(run.logged, word, "was put back or made anew"), f"{service} has logged it", NOTICED_S)
    since = len(rig.ledger.entries)
    await run.must(partial(_goes_on, rig, since), "the owner does new commands, and shows them")
    run.wrong.extend(await _never_was(run))


async def _heads(rig: Rig) -> Mapping[int, int]:
    async with rig.contexts() as contexts:
        return await contexts[OWNER].store.heads()


async def _has_moved(rig: Rig, since: Mapping[int, int]) -> bool:
    heads = await _heads(rig)
    return all(number > since[partition] + 2 for partition, number in heads.items())


async def _was_seen(rig: Rig, since: Mapping[int, int]) -> bool:
    async with rig.contexts() as contexts:
        for service, consumers in CONSUMERS.items():
            for consumer in consumers:
                at = await contexts[service].views.checkpoints(consumer)
                if not all(
                    at[(OWNER, p)].number > number + 2 if (OWNER, p) in at else False for p, number in since.items()
                ):
                    return False
    return True


async def _is_diverged(run: Run, service: str, consumer: str) -> bool:
    status, found = await run.ask(f"/_chimera/{service}/status")
    return status == OK and any(row["diverged"] for row in found["consumers"] if row["consumer"] == consumer)


async def _is_named(run: Run, service: str) -> bool:
    status, found = await run.ask(f"/_chimera/{service}/health/ready")
    return bool(found) and (status == 503 or bool(found.get("standing")))


async def _goes_on(rig: Rig, since: int) -> bool:
    labels = {entry.label for entry in list(rig.ledger.entries.values())[since:] if entry.accepted}
    async with rig.contexts() as contexts:
        shown = {label for row in await every_row(contexts[OWNER], Account) for label in row.labels}
    return len(labels & shown) >= 5


async def _never_was(run: Run) -> list[str]:
    """What the borrower shows as fresh, and the owner does not have (any more)."""
    async with run.rig.contexts() as contexts:
        accounts = [
            row for row in await every_row(contexts[OWNER], Account) if row.account_id.startswith(f"{run.tag}-")
        ]
    found: list[str] = []
    for each in accounts:
        known = set(each.labels)
        status, shown = await run.ask(f"/standings/{each.account_id}")
        if status == OK and shown["state"] == "fresh" and shown["last"] not in known:
            async with run.rig.contexts() as contexts:  # it may have been added meanwhile
                rows = await every_row(contexts[OWNER], Account)
            if not any(shown["last"] in row.labels for row in rows):
                found.append(f"{each.account_id} is shown as fresh with {shown['last']}, which its owner does not have")
    return found


async def _keep(rig: Rig) -> PutBack:
    """Keep what the owner's database holds now; what is returned puts it back."""
    stack = rig.stack
    if stack.name == EMBEDDED:
        return await _keep_file(rig, rig.fleet.state / f"{OWNER}.db")
    name = f"{stack.tag}-{OWNER}"
    if "postgresql" in stack.name:
        rows = await _postgresql_rows(name)
        return partial(_put_into_postgresql, name, rows)
    rows = await _mysql_rows(name)
    return partial(_put_into_mysql, name, rows)


async def _keep_file(rig: Rig, path: Path) -> PutBack:
    kept = path.with_suffix(".kept")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(kept)) as target:
        source.backup(target)

    async def put_back() -> None:
        await rig.fleet.kill()
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
        shutil.copy(kept, path)
        await rig.fleet.start()

    return put_back


async def _postgresql_rows(schema: str) -> Rows:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(url_of("postgresql"))
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
            return {name: await connection.fetch(f'SELECT * FROM "{schema}"."{name}"') for (name,) in names}  # noqa: S608
    finally:
        await connection.close()


async def _put_into_postgresql(schema: str, rows: Rows) -> None:
    import asyncpg

    connection = await asyncpg.connect(url_of("postgresql"))
    tables = {f'"{schema}"."{name}"': kept for name, kept in rows.items()}
    try:
        for _ in range(TRIES):
            # somebody has one of the tables, and wants another
            with suppress(asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError):
                return await _replace_rows(connection, tables)
            await asyncio.sleep(LOCK_S)
        raise ChimeraError(f"the tables of {schema} could not be locked")
    finally:
        await connection.close()


async def _replace_rows(connection: Any, tables: Rows) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {int(LOCK_S * 1000)}")
        await connection.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
        for table, kept in tables.items():
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608
            if kept:
                values = ", ".join(f"${place}" for place in range(1, len(kept[0]) + 1))
                await connection.executemany(
                    f"INSERT INTO {table} VALUES ({values})",  # noqa: S608
                    [tuple(row) for row in kept],
                )


async def _mysql_rows(database: str) -> Rows:
    async with mysql_connection() as cursor:
        await cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        await cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (database,))
        names = [name for (name,) in await cursor.fetchall() if name not in OF_VIEWS]
        found: dict[str, list[Any]] = {}
        for name in names:
            await cursor.execute(f"SELECT * FROM `{database}`.`{name}`")  # noqa: S608
            found[name] = list(await cursor.fetchall())
        return found


async def _put_into_mysql(database: str, rows: Rows) -> None:
    async with mysql_connection() as cursor:
        await cursor.execute("SET autocommit = 0")
        await cursor.execute("LOCK TABLES " + ", ".join(f"`{database}`.`{name}` WRITE" for name in rows))
        for name, kept in rows.items():
            await cursor.execute(f"DELETE FROM `{database}`.`{name}`")  # noqa: S608
            if kept:
                values = ", ".join(["%s"] * len(kept[0]))
                await cursor.executemany(f"INSERT INTO `{database}`.`{name}` VALUES ({values})", kept)  # noqa: S608
        await cursor.execute("COMMIT")
        await cursor.execute("UNLOCK TABLES")


async def make_events_anew(run: Run) -> None:
    """Delete the topic of the owner's events while everybody works, and make it anew: its offsets begin again."""
    rig = run.rig
    before = await _heads(rig)
    await run.until(partial(_has_moved, rig, before), "every partition has events")
    topic = events_topic(OWNER)
    await _delete(rig, topic)
    await run.until(partial(_created, rig, topic), "the topic was made anew")
    run.struck(f"{topic} was deleted and made anew")
    await asyncio.sleep(1.0)


async def put_commands_back(run: Run) -> None:
    """Put the topic of commands back to an earlier moment, and let it grow past its old end before anybody reads it.

    Nothing that was accepted had not been read by then; what is accepted afterwards has offsets that were read before.
    """
    rig, topic = run.rig, commands_topic(OWNER)
    await run.until(partial(_holds, rig, topic, {}), "commands came")
    run.arm(Armed(f"{run.tag}-none", "commands.append.before", "raise", times=0))
    await asyncio.sleep(0.5)
    await run.until(partial(_all_read, rig), "all commands were read")
    await rig.fleet.kill()
    async with rig.contexts() as contexts:
        log = contexts[OWNER].log
        ends = await log.ends(topic)
        kept = [m for _, m in await _records(log, topic, {p: end // 2 for p, end in ends.items() if end > 1})]
    await _delete(rig, topic)
    await run.until(partial(_created, rig, topic), "the topic was made anew")
    async with rig.contexts() as contexts:
        await contexts[OWNER].log.append(topic, kept)
    run.arm(Armed(f"{run.tag}-unread", "log.call", "raise", times=0, where=f"run {OWNER} --write"))
    await rig.fleet.start()
    await run.until(partial(_holds, rig, topic, ends), "the topic has grown past its old end", GROWN_S)
    run.struck(f"{topic} was put back from {ends}, and has grown past that")
    run.arm()
    word = "it has another command than was read there"
    await run.must(partial(run.logged, topic, word), "it is logged that the log was put back", NOTICED_S)
    await run.must(partial(_is_told, run, word), "the status tells that the log was put back", NOTICED_S)


async def _all_read(rig: Rig) -> bool:
    async with rig.contexts() as contexts:
        context = contexts[OWNER]
        at = await read_checkpoints(context.store, COMMANDS, context.commands_topic, range(context.service.partitions))
        ends = await context.log.ends(context.commands_topic)
    return all(at[partition].number == end for partition, end in ends.items())


async def _holds(rig: Rig, topic: str, more_than: Mapping[int, int]) -> bool:
    """True once the topic has some records, and in each partition that had some, more than it had."""
    async with rig.contexts() as contexts:
        ends = await contexts[OWNER].log.ends(topic)
    return sum(ends.values()) > SOME and all(ends[partition] > end for partition, end in more_than.items() if end)


async def _is_told(run: Run, word: str) -> bool:
    status, found = await run.ask(f"/_chimera/{OWNER}/status")
    return status == OK and any(word in each["cause"] for each in found["standing"])


async def _records(log: Log, topic: str, through: Mapping[int, int]) -> list[Record]:
    """The records of a topic up to these offsets."""
    found: list[Record] = []
    left = dict(through)
    async with aclosing(log.read(topic, dict.fromkeys(through, 0))) as batches:  # type: ignore[type-var]
        async for batch in batches:
            found += [record for record in batch if record.offset <= through[record.message.partition]]
            for record in batch:
                if record.offset >= through[record.message.partition]:
                    left.pop(record.message.partition, None)
            if not left:
                break
    return found


async def _delete(rig: Rig, topic: str) -> None:
    if rig.stack.name == EMBEDDED:
        with closing(sqlite3.connect(rig.fleet.state / "log" / f"{topic}.db", timeout=30.0)) as connection, connection:
            connection.execute("DELETE FROM records")
    elif "rabbitmq" in rig.stack.name:
        await delete_streams(rig.stack.tag, {topic: rig.partitions()[OWNER]})
    else:
        await asyncio.to_thread(delete_topics, f"{rig.stack.tag}-{topic}")


async def _created(rig: Rig, topic: str) -> bool:
    async with rig.contexts() as contexts:
        await contexts[OWNER].log.create(topic, rig.partitions()[OWNER])
    return True
