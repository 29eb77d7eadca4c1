"""What is committed to a SQLite file is told to those who have it open too, and nobody asks the file meanwhile."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from chimera.adapters.sqlite.bell import LONGEST, NAME, Bell
from chimera.adapters.sqlite.files import IDLE_S, MANY
from chimera.adapters.sqlite.store import SQLiteStore
from chimera.adapters.sqlite.views import SQLiteViews
from chimera.ports import Document
from chimera.testing.contracts.suite import event
from chimera.testing.waiting import eventually


async def test_a_commit_is_told_to_others_and_not_to_oneself(tmp_path: Path) -> None:
    stores = [SQLiteStore(tmp_path / "a.db"), SQLiteStore(tmp_path / "a.db"), SQLiteStore(tmp_path / "b.db")]
    heard: list[int] = []
    for number, store in enumerate(stores):
        await store.create([], 1)
        store.listen(lambda number=number: heard.append(number))  # type: ignore[misc]
    heard.clear()
    async with stores[0].transaction() as session:
        await session.append([event(0, 1)])
    assert heard == [1]
    async with stores[0].transaction():
        pass
    assert heard == [1], "nothing was changed"
    for store in stores:
        await store.close()


async def test_a_commit_of_another_process_is_told(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    await store.create([], 1)
    heard: list[int] = []
    store.listen(lambda: heard.append(1))
    work = f"""
import asyncio
from chimera.adapters.sqlite.store import SQLiteStore
from chimera.testing.contracts.suite import event
async def main():
    store = SQLiteStore({str(tmp_path / "a.db")!r})
    await store.create([], 1)
    async with store.transaction() as session:
        await session.append([event(0, 1)])
    await store.close()
asyncio.run(main())
"""
    assert await (await asyncio.create_subprocess_exec(sys.executable, "-c", work)).wait() == 0
    await eventually(lambda: heard)
    assert await store.heads() == {0: 1}
    await store.close()


async def test_a_bell_that_was_rung_often_begins_anew(tmp_path: Path) -> None:
    bell, other = Bell(tmp_path), Bell(tmp_path)
    (tmp_path / NAME).write_bytes(bytes(LONGEST + 1))
    heard: list[int] = []
    for each in (bell, other):
        each.open()
    other.listen("a", self_ := object(), lambda: heard.append(1))
    bell.ring("a", None)
    assert (tmp_path / NAME).stat().st_size == 1
    await eventually(lambda: heard)
    other.ignore("a", self_)
    for each in (bell, other):
        each.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_of_many_files_those_that_nobody_uses_hold_no_descriptors(tmp_path: Path) -> None:
    def held() -> int:
        paths = Path("/proc/self/fd").iterdir()
        return sum(str(tmp_path) in str(path.readlink()) for path in paths if path.is_symlink())

    stores = [SQLiteViews(tmp_path / f"{number}.db") for number in range(MANY + 8)]
    for store in stores:
        await store.create()
        await store.write("v", [Document("v", "a", b"1")], [])
        await store.get("v", ["a"])
    await eventually(lambda: held() == 1, IDLE_S + 10)
    assert (await stores[0].get("v", ["a"]))["a"].data == b"1"
    assert await stores[1].write("v", [Document("v", "b", b"1")], [])
    for store in stores:
        await store.close()
    assert held() == 0
