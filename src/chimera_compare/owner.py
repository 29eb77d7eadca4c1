"""The owner's process: `python -m chimera_compare.owner ORDERS`, where ORDERS is a file with an `Orders`.

It works in that file's folder, and prints its port once it serves. A line with the start (monotonic seconds) begins
the run; at its end it writes its ledger and prints `done`. It ends when standard input closes, so it never outlives
who started it.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews
from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.aio.tasks import stop
from chimera.core.context import Context
from chimera.errors import Unavailable
from chimera.messages import Message, partition_of
from chimera.ports import Owner
from chimera.run.engines import context_of
from chimera.run.serving import answering, listen
from chimera.run.write_head import WriteHead
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from chimera_compare.plan import Trouble
from chimera_compare.services import OWNER, Change, owner_service
from chimera_compare.trouble import TroubledSite

HOST = "127.0.0.1"
LEDGER = "ledger.json"
SEEDED_AT_ONCE = 200
PATIENCE_S = 5.0


class Orders(msgspec.Struct, kw_only=True):
    """The orders to the owner's process. Times are seconds; `window`: when the trouble begins and ends, from the start.

    `keys` get documents of `documents`, and `writes` of them a second get another. Where the database is the one that
    is in trouble (`shares_database`), nothing can be written meanwhile unless it is just slow.
    """

    keys: list[str]
    documents: list[msgspec.Raw]
    writes: float
    seconds: float
    window: tuple[float, float]
    trouble: Trouble
    latency: float
    slow: float
    seed: int
    shares_database: bool


class RunClock:
    """The trouble that there is now. Before the start there is none."""

    def __init__(self, trouble: Trouble, window: tuple[float, float]) -> None:
        self._trouble = trouble
        self._window = window
        self.start = float("inf")

    def __call__(self) -> Trouble:
        begin, end = self._window
        return self._trouble if begin <= time.monotonic() - self.start < end else "none"

    async def until(self, after: float) -> None:
        """Wait until so many seconds from the start."""
        await asyncio.sleep(self.start + after - time.monotonic())


async def main(path: Path) -> None:
    """Own, share and write until standard input closes."""
    orders = _read_orders(path)
    lines = await _standard_input()
    now = RunClock(orders.trouble, orders.window)
    ledger: list[tuple[str, int, float]] = []
    async with owning(path.parent) as (context, head):
        await _seed(context, orders, ledger)
        site = TroubledSite(Site([head]), now, latency=orders.latency, slow=orders.slow)
        async with AsyncExitStack() as serving:
            listener = await listen(HOST, 0)
            port = listener.getsockname()[1]
            await serving.enter_async_context(answering(site, listener))
            _say(str(port))
            if not (line := await lines.readline()):
                return
            now.start = float(line)
            writing = asyncio.ensure_future(_write(context, orders, now, ledger))
            if orders.trouble == "down":
                await now.until(orders.window[0])
                await serving.aclose()
                await now.until(orders.window[1])
                await serving.enter_async_context(answering(site, await listen(HOST, port, PATIENCE_S)))
            await writing
            _write_ledger(path.parent, ledger)
            _say("done")
            await lines.read()


@asynccontextmanager
async def owning(folder: Path) -> AsyncIterator[tuple[Context, ReadHead]]:
    """The owner on embedded engines, with read and write head at work."""
    log, store, views = SQLiteLog(folder / "log"), SQLiteStore(folder / "owner.db"), SQLiteViews(folder / "owner-v.db")
    context = context_of(owner_service(), log, store, views, nobody)
    async with AsyncExitStack() as stack:
        for engine in (log, store, views):
            stack.push_async_callback(engine.close)
        await context.prepare()
        stack.push_async_callback(context.owners.close)
        stack.push_async_callback(stop, asyncio.ensure_future(WriteHead(context, OWNER).run()))
        head = ReadHead(context)
        await head.start()
        stack.push_async_callback(head.stop)
        yield context, head


def nobody(name: str) -> Owner:
    """Raises Unavailable: no other owner is needed here."""
    raise Unavailable(f"there is no {name} here")


async def _seed(context: Context, orders: Orders, ledger: list[tuple[str, int, float]]) -> None:
    pairs = [(key, orders.documents[index % len(orders.documents)]) for index, key in enumerate(orders.keys)]
    for at in range(0, len(pairs), SEEDED_AT_ONCE):
        page = pairs[at : at + SEEDED_AT_ONCE]
        await _change(context, page, f"seed-{at}")
        ledger += [(key, 1, time.monotonic()) for key, _ in page]


async def _write(context: Context, orders: Orders, now: RunClock, ledger: list[tuple[str, int, float]]) -> None:
    rng = random.Random(f"{orders.seed} writes")  # noqa: S311 - a load
    versions = dict.fromkeys(orders.keys, 1)
    for number in range(int(orders.writes * orders.seconds)):
        key, document = rng.choice(orders.keys), rng.choice(orders.documents)
        await now.until(number / orders.writes)
        if orders.shares_database and now() not in ("none", "slow"):
            continue
        await _change(context, [(key, document)], f"write-{number}")
        versions[key] += 1
        ledger.append((key, versions[key], time.monotonic()))
    await now.until(orders.seconds)


async def _change(context: Context, pairs: Sequence[tuple[str, msgspec.Raw]], name: str) -> None:
    at = datetime.now(UTC).isoformat()
    tasks = [
        Task(
            Message(
                f"{name}-{index}",
                OWNER,
                Change.types_in(context.service.name)[0],
                key,
                at,
                msgspec.json.encode(Change(key, document)),
                partition_of(key, context.service.partitions),
            )
        )
        for index, (key, document) in enumerate(pairs)
    ]
    for outcome in await direct_executor(context).run(tasks):
        if isinstance(outcome, Unavailable):
            raise outcome
        if outcome.state != "done":
            raise RuntimeError(f"the owner could not write: {outcome.detail}")


def _read_orders(path: Path) -> Orders:
    return msgspec.json.decode(path.read_bytes(), type=Orders)


def _write_ledger(folder: Path, ledger: list[tuple[str, int, float]]) -> None:
    (folder / LEDGER).write_bytes(msgspec.json.encode(ledger))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    import uvloop

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(main(Path(sys.argv[1])))
