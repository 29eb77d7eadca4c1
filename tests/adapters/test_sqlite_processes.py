"""Two processes use the same SQLite files at once. Run as a script, this module is one of those processes."""

import asyncio
import os
import sys
from contextlib import aclosing
from pathlib import Path

import chimera.messages
from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews
from chimera.messages import Message
from chimera.ports import Document, Record
from chimera.testing.contracts.suite import event

PARTITIONS = 2
TRANSACTIONS = 40
INCREMENTS = 60


async def test_concurrent_transactions_of_two_processes_stay_gapless(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db")
    await store.create((), PARTITIONS)
    processes = [await _start("transact", tmp_path) for _ in range(2)]
    exits = asyncio.gather(*(process.wait() for process in processes))
    while not exits.done():
        await _assert_gapless(store)
        await asyncio.sleep(0.005)
    assert await exits == [0, 0]
    assert await _assert_gapless(store) == 2 * 2 * TRANSACTIONS
    await store.close()


async def test_a_reader_sees_what_another_process_appends(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path / "log")
    await log.create("events", PARTITIONS)
    reading = asyncio.create_task(_take(log, 2 * TRANSACTIONS))
    processes = [await _start("append", tmp_path) for _ in range(2)]
    assert await asyncio.gather(*(process.wait() for process in processes)) == [0, 0]
    records = await asyncio.wait_for(reading, 60)
    for key in {record.message.key for record in records}:
        numbers = [record.message.number for record in records if record.message.key == key]
        assert numbers == list(range(1, TRANSACTIONS + 1))
    await log.close()


async def test_two_processes_that_create_and_change_the_same_document_lose_no_update(tmp_path: Path) -> None:
    processes = [await _start("increment", tmp_path) for _ in range(3)]
    assert await asyncio.gather(*(process.wait() for process in processes)) == [0, 0, 0]
    views = SQLiteViews(tmp_path / "views.db")
    await views.create()
    assert (await views.get("counts", ["a"]))["a"].data == b"%d" % (3 * INCREMENTS)
    await views.close()


async def _start(role: str, directory: Path) -> asyncio.subprocess.Process:
    source = str(Path(chimera.messages.__file__).parents[1])
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, role, str(directory), env={**os.environ, "PYTHONPATH": source}
    )


async def _assert_gapless(store: SQLiteStore) -> int:
    count = 0
    for partition in range(PARTITIONS):
        numbers = [message.number for message in await store.journal(partition, 0, 10_000)]
        assert numbers == list(range(1, len(numbers) + 1))
        count += len(numbers)
    return count


async def _take(log: SQLiteLog, count: int) -> list[Record]:
    records: list[Record] = []
    async with aclosing(log.read("events", dict.fromkeys(range(PARTITIONS), 0))) as batches:
        while len(records) < count:
            records += await anext(batches)
    return records


async def transact(directory: Path) -> None:
    store = SQLiteStore(directory / "store.db")
    await store.create((), PARTITIONS)
    await asyncio.gather(*(_transact(store, step) for step in range(TRANSACTIONS + TRANSACTIONS // 2)))
    await store.close()


async def _transact(store: SQLiteStore, step: int) -> None:
    """One event in each partition; every third transaction rolls back."""
    try:
        async with store.transaction() as tx:
            tips = await tx.hold(range(PARTITIONS))
            await tx.append([event(partition, tip.number + 1) for partition, tip in tips.items()])
            if step % 3 == 2:
                raise LookupError
    except LookupError:
        return


async def append(directory: Path) -> None:
    log = SQLiteLog(directory / "log")
    await log.create("events", PARTITIONS)
    for number in range(1, TRANSACTIONS + 1):
        message = Message("id", "source", "type", str(os.getpid()), "", b"1", os.getpid() % PARTITIONS, number)
        await log.append("events", [message])
    await log.close()


async def increment(directory: Path) -> None:
    views = SQLiteViews(directory / "views.db")
    await views.create()
    done = 0
    while done < INCREMENTS:
        kept = (await views.get("counts", ["a"])).get("a", Document("counts", "a", b"0"))
        done += await views.write("counter", [kept._replace(data=b"%d" % (int(kept.data or b"0") + 1))], []) > 0
    await views.close()


if __name__ == "__main__":
    asyncio.run({"transact": transact, "append": append, "increment": increment}[sys.argv[1]](Path(sys.argv[2])))
