"""The owner's process: `python -m chimera.compare.owner ORDERS`, where ORDERS is a file with an `Orders`.

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
from chimera.body import Body, wire_type
from chimera.compare.plan import Trouble
from chimera.compare.services import OWNER, Change, owner_service
from chimera.compare.trouble import TroubledSite
from chimera.errors import Unavailable
from chimera.execution import Task
from chimera.messages import Message, partition_of
from chimera.ports import Owner
from chimera.read_head import ReadHead
from chimera.serving import answering, listen
from chimera.tasks import stop
from chimera.web.site import Site
from chimera.write_head import WriteHead

HOST = "127.0.0.1"
LEDGER = "ledger.json"
SEEDED_AT_ONCE = 200
PATIENCE_S = 5.0


class Orders(msgspec.Struct, kw_only=True):
    """What the owner does. Times are seconds; `window` is when the trouble begins and ends, from the start.

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


class Clock:
    """Which trouble there is now. Before the start there is none."""

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
    now = Clock(orders.trouble, orders.window)
    ledger: list[tuple[str, int, float]] = []
    async with owning(path.parent) as (body, head):
        await _seed(body, orders, ledger)
        site = TroubledSite(Site([head]), now, latency=orders.latency, slow=orders.slow)
        async with AsyncExitStack() as serving:
            listener = await listen(HOST, 0)
            port = listener.getsockname()[1]
            await serving.enter_async_context(answering(site, listener))
            _say(str(port))
            if not (line := await lines.readline()):
                return
            now.start = float(line)
            writing = asyncio.ensure_future(_write(body, orders, now, ledger))
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
async def owning(folder: Path) -> AsyncIterator[tuple[Body, ReadHead]]:
    """The owner on embedded engines, with both heads at work."""
    log, store, views = SQLiteLog(folder / "log"), SQLiteStore(folder / "owner.db"), SQLiteViews(folder / "owner-v.db")
    body = Body(owner_service(), log=log, store=store, views=views, owner_of=nobody)
    async with AsyncExitStack() as stack:
        for engine in (log, store, views):
            stack.push_async_callback(engine.close)
        await body.open()
        stack.push_async_callback(body.close)
        stack.push_async_callback(stop, asyncio.ensure_future(WriteHead(body, OWNER).run()))
        head = ReadHead(body)
        await head.start()
        stack.push_async_callback(head.stop)
        yield body, head


def nobody(name: str) -> Owner:
    """Who owns nothing that is needed here."""
    raise Unavailable(f"there is no {name} here")


async def _seed(body: Body, orders: Orders, ledger: list[tuple[str, int, float]]) -> None:
    pairs = [(key, orders.documents[index % len(orders.documents)]) for index, key in enumerate(orders.keys)]
    for at in range(0, len(pairs), SEEDED_AT_ONCE):
        page = pairs[at : at + SEEDED_AT_ONCE]
        await _change(body, page, f"seed-{at}")
        ledger += [(key, 1, time.monotonic()) for key, _ in page]


async def _write(body: Body, orders: Orders, now: Clock, ledger: list[tuple[str, int, float]]) -> None:
    rng = random.Random(f"{orders.seed} writes")  # noqa: S311 - a load
    versions = dict.fromkeys(orders.keys, 1)
    for number in range(int(orders.writes * orders.seconds)):
        key, document = rng.choice(orders.keys), rng.choice(orders.documents)
        await now.until(number / orders.writes)
        if orders.shares_database and now() not in ("none", "slow"):
            continue
        await _change(body, [(key, document)], f"write-{number}")
        versions[key] += 1
        ledger.append((key, versions[key], time.monotonic()))
    await now.until(orders.seconds)


async def _change(body: Body, pairs: Sequence[tuple[str, msgspec.Raw]], name: str) -> None:
    at = datetime.now(UTC).isoformat()
    tasks = [
        Task(
            Message(
                f"{name}-{index}",
                OWNER,
                wire_type(body.service, Change.__name__),
                key,
                at,
                msgspec.json.encode(Change(key, document)),
                partition_of(key, body.service.partitions),
            )
        )
        for index, (key, document) in enumerate(pairs)
    ]
    for outcome in await body.direct.run(tasks):
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
