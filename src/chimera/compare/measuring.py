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
from starlette.types import ASGIApp

from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews
from chimera.body import Body
from chimera.compare.counting import CountingLog, CountingOwner, CountingViews
from chimera.compare.exposition import counts
from chimera.compare.figures import OK, Counted, Row, row_of
from chimera.compare.ledger import Ledger
from chimera.compare.load import ask, load
from chimera.compare.made_up import made_up
from chimera.compare.owner import HOST, LEDGER, Clock, Orders, nobody
from chimera.compare.plan import WAYS, Plan, Way
from chimera.compare.services import PAGE, SHARE, PageRow, Shown, monolith_service, page_service
from chimera.compare.trouble import TroubledStore
from chimera.copies import caught_up
from chimera.entities import table_of
from chimera.errors import ChimeraError
from chimera.ports import Store
from chimera.read_head import ReadHead
from chimera.tasks import stop
from chimera.web.site import Site
from chimera.write_head import WriteHead

DOCUMENTS = 200
STARTS_S = 30.0
SOON_S = 0.3
LOOK_S = 0.02


async def compare(plan: Plan, progress: Callable[[str], None] = lambda doing: None) -> list[Row]:
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


async def measure(plan: Plan, way: Way, known: float, documents: Sequence[bytes]) -> Row:
    """One run, in a folder of its own that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="chimera-compare-") as name:
        folder = Path(name)
        async with _owner(plan, way, known, documents, folder) as (port, process):
            counted, now = Counted(), Clock(plan.trouble, plan.trouble_window)
            async with _page(plan, way, folder, port, counted, now) as (body, site):
                await _warm_up(plan, way, known, body, site)
                before = _calls(body)
                _reset(counted)
                start = now.start = time.monotonic() + SOON_S
                await _tell(process, f"{start!r}\n")
                answers = await load(site, plan, start)
                calls = {name: count - before.get(name, 0) for name, count in _calls(body).items()}
                await _hear(process)
        counted.spared = calls.pop("spared", 0)
        counted.calls = sum(calls.values())
        commits = msgspec.json.decode((folder / LEDGER).read_bytes(), type=list[tuple[str, int, float]])
    return row_of(plan, way, known, answers, counted, Ledger(commits), start)


@asynccontextmanager
async def _owner(
    plan: Plan, way: Way, known: float, documents: Sequence[bytes], folder: Path
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
        "chimera.compare.owner",
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
    plan: Plan, way: Way, folder: Path, port: int, counted: Counted, now: Clock
) -> AsyncIterator[tuple[Body, ASGIApp]]:
    """The page's service on embedded engines, with both heads at work; a monolith's is in the owner's database."""
    log, views = SQLiteLog(folder / "log"), SQLiteViews(folder / "page-views.db")
    store = SQLiteStore(folder / ("owner.db" if way == "monolith" else "page.db"))
    owner = CountingOwner(f"http://{HOST}:{port}", counted)
    async with AsyncExitStack() as stack:
        for engine in (log, store, views):
            stack.push_async_callback(engine.close)
        if way == "monolith":
            shared: Store = TroubledStore(store, now, slow=plan.slow)
            body = Body(monolith_service(), log=log, store=shared, views=views, owner_of=nobody)
        else:
            service = page_service(plan.document, way, plan.budget, plan.max_age)
            counting = {"log": CountingLog(log, counted), "views": CountingViews(views, counted)}
            body = Body(service, store=store, owner_of=lambda name: owner, **counting)  # type: ignore[arg-type]
        await body.open()
        stack.push_async_callback(body.close)
        await _write_pages(store, plan.page_keys())
        if way != "monolith":
            stack.push_async_callback(stop, asyncio.ensure_future(WriteHead(body, PAGE).run()))
        head = ReadHead(body)
        await head.start()
        stack.push_async_callback(head.stop)
        yield body, Site([head])


async def _write_pages(store: Store, keys: Sequence[str]) -> None:
    table = table_of(PageRow)
    async with store.transaction() as session:
        await session.save(table, [table.to_row(PageRow(key, f"The page of {key}")) for key in keys])


async def _warm_up(plan: Plan, way: Way, known: float, body: Body, site: ASGIApp) -> None:
    """Wait until a copy has everything and is known to have it, so that no page waits for what happens once."""
    if way == "sync" or way == "monolith":
        return
    borrow = body.service.borrows[SHARE]
    async with asyncio.timeout(STARTS_S):
        while not await caught_up(body, borrow, way):  # noqa: ASYNC110 - other processes have to get there too
            await asyncio.sleep(LOOK_S)
        probes = set(plan.known_keys(known))
        if way == "hybrid":
            probes = set(plan.page_keys()) - probes
        for key in sorted(probes)[:1]:
            while not await _is_settled(body, site, key):  # noqa: ASYNC110 - as above
                await asyncio.sleep(LOOK_S)


async def _is_settled(body: Body, site: ASGIApp, key: str) -> bool:
    """Whether the copy answers for a key by itself, without the owner: a fresh document, or that there is none."""
    before = _calls(body)
    status, answer = await ask(site, f"/pages/{key}")
    page = msgspec.json.decode(answer, type=Shown) if status == OK else None
    return page is not None and page.certain and page.state != "stale" and _calls(body) == before


def _calls(body: Body) -> dict[str, int]:
    text = body.metrics.exposition().decode()
    return dict(counts(text, "chimera_owner_calls", "outcome", service=body.service.name, share=SHARE))


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
