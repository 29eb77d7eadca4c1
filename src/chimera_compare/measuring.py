"""One run: an owner in a process of its own, the measured page in this one, the load, and the figures."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews
from chimera.borrow.copies import caught_up
from chimera.core.aio.tasks import stop
from chimera.core.context import Context
from chimera.entities import table_of
from chimera.errors import ChimeraError
from chimera.ports import Store
from chimera.run.engines import context_of
from chimera.run.write_head import WriteHead
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from chimera.web.wire.http import ASGIApp
from chimera_compare.counting import CountingLog, CountingOwner, CountingViews
from chimera_compare.exposition import counts
from chimera_compare.figures import OK, Counted, Row, row_of
from chimera_compare.ledger import WriteLedger
from chimera_compare.load import ask, load
from chimera_compare.made_up import made_up
from chimera_compare.owner import HOST, LEDGER, Orders, RunClock, nobody
from chimera_compare.plan import WAYS, LoadPlan, Way
from chimera_compare.services import PAGE, SHARE, PageRow, Shown, monolith_service, page_service
from chimera_compare.trouble import TroubledStore

DOCUMENTS = 200
STARTS_S = 30.0
SOON_S = 0.3
LOOK_S = 0.02


async def compare(plan: LoadPlan, progress: Callable[[str], None] = lambda doing: None) -> list[Row]:
    """The figures of every way at every share of known keys, one run after the other, each from scratch.

    `progress` is told what is being run. Raises SettingsError when documents of the type can't be made up.
    """
    documents = made_up(plan.document, DOCUMENTS, plan.seed)
    rows = []
    with _quiet():
        for known in plan.known:
            for way in WAYS:
                progress(f"{way}, {known:.0%} of the keys known, {plan.seconds:g} s")
                rows.append(await measure(plan, way, known, documents))
    return rows


async def measure(plan: LoadPlan, way: Way, known: float, documents: Sequence[bytes]) -> Row:
    """One run, in a folder of its own that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="chimera-compare-") as name:
        folder = Path(name)
        async with _owner(plan, way, known, documents, folder) as (port, process):
            counted, now = Counted(), RunClock(plan.trouble, plan.trouble_window)
            async with _page(plan, way, folder, port, counted, now) as (context, site):
                await _warm_up(plan, way, known, context, site)
                before = _calls(context)
                _reset(counted)
                start = now.start = time.monotonic() + SOON_S
                await _tell(process, f"{start!r}\n")
                answers = await load(site, plan, start)
                calls = {name: count - before.get(name, 0) for name, count in _calls(context).items()}
                await _hear(process)
        counted.spared = calls.pop("spared", 0)
        counted.calls = sum(calls.values())
        commits = msgspec.json.decode((folder / LEDGER).read_bytes(), type=list[tuple[str, int, float]])
    return row_of(plan, way, known, answers, counted, WriteLedger(commits), start)


@asynccontextmanager
async def _owner(
    plan: LoadPlan, way: Way, known: float, documents: Sequence[bytes], folder: Path
) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """The owner's process, serving; gives its port."""
    orders = Orders(
        keys=plan.known_keys(known),
        documents=[msgspec.Raw(document) for document in documents],
        writes=plan.writes,
        seconds=plan.seconds,
        window=plan.trouble_window,
        trouble=plan.trouble,
        latency=plan.owner_latency,
        slow=plan.slow,
        seed=plan.seed,
        shares_database=way == "monolith",
    )
    path = folder / "orders.json"
    path.write_bytes(msgspec.json.encode(orders))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "chimera_compare.owner",
        str(path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield int(await _hear(process)), process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STARTS_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()


@asynccontextmanager
async def _page(
    plan: LoadPlan, way: Way, folder: Path, port: int, counted: Counted, now: RunClock
) -> AsyncIterator[tuple[Context, ASGIApp]]:
    """The page's service on embedded engines, read and write head at work; a monolith's is in the owner's database."""
    log, views = SQLiteLog(folder / "log"), SQLiteViews(folder / "page-views.db")
    store = SQLiteStore(folder / ("owner.db" if way == "monolith" else "page.db"))
    owner = CountingOwner(f"http://{HOST}:{port}", counted)
    async with AsyncExitStack() as stack:
        for engine in (log, store, views):
            stack.push_async_callback(engine.close)
        if way == "monolith":
            shared: Store = TroubledStore(store, now, slow=plan.slow)
            context = context_of(monolith_service(), log, shared, views, nobody)
        else:
            service = page_service(plan.document, way, plan.budget, plan.max_age)
            counting = CountingLog(log, counted), store, CountingViews(views, counted)
            context = context_of(service, *counting, lambda name: owner)
        await context.prepare()
        stack.push_async_callback(context.owners.close)
        await _write_pages(store, plan.page_keys())
        if way != "monolith":
            stack.push_async_callback(stop, asyncio.ensure_future(WriteHead(context, PAGE).run()))
        head = ReadHead(context)
        await head.start()
        stack.push_async_callback(head.stop)
        yield context, Site([head])


async def _write_pages(store: Store, keys: Sequence[str]) -> None:
    table = table_of(PageRow)
    async with store.transaction() as session:
        await session.save(table, [table.to_row(PageRow(key, f"The page of {key}")) for key in keys])


async def _warm_up(plan: LoadPlan, way: Way, known: float, context: Context, site: ASGIApp) -> None:
    """Wait until a copy has everything and is known to have it, so that no page waits for what happens once."""
    if way == "sync" or way == "monolith":
        return
    borrow = context.service.borrows[SHARE]
    async with asyncio.timeout(STARTS_S):
        while not await caught_up(context, borrow, way):  # noqa: ASYNC110 - other processes have to get there too
            await asyncio.sleep(LOOK_S)
        with_document = set(plan.known_keys(known))
        without = set(plan.page_keys()) - with_document
        for key in sorted(without)[:1] + (sorted(with_document)[:1] if way == "async" else []):
            while not await _is_settled(context, site, key):  # noqa: ASYNC110 - as above
                await asyncio.sleep(LOOK_S)


async def _is_settled(context: Context, site: ASGIApp, key: str) -> bool:
    """True when the copy answers for a key by itself, without the owner: a fresh document, or that there is none."""
    before = _calls(context)
    status, answer = await ask(site, f"/pages/{key}")
    page = msgspec.json.decode(answer, type=Shown) if status == OK else None
    return page is not None and page.certain and page.state != "stale" and _calls(context) == before


def _calls(context: Context) -> dict[str, int]:
    text = context.metrics.exposition().decode()
    return dict(counts(text, "chimera_owner_calls", "outcome", service=context.service.name, share=SHARE))


def _reset(counted: Counted) -> None:
    for name in counted.__struct_fields__:
        setattr(counted, name, 0)


async def _tell(process: asyncio.subprocess.Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode())
    await process.stdin.drain()


async def _hear(process: asyncio.subprocess.Process) -> str:
    """The owner's next line. Raises ChimeraError when it ended or is silent for too long."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(STARTS_S):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise ChimeraError(f"the owner's process has said nothing for {STARTS_S:g} s; try with less load") from error
    if not line:
        raise ChimeraError("the owner's process ended; what it wrote before says why")
    return line.decode().strip()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what goes wrong on purpose out of the log."""
    logger = logging.getLogger("chimera")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
