"""Tables that `project` writes are built anew beside those that serve, compared, and switched at one moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from chimera import Command, DeclarationError, Entity, Event, Reader, Service, Transaction
from chimera.cli import rebuilds as command_line
from chimera.commands.execute import Task
from chimera.commands.handlers import reaction_executor
from chimera.core.context import Context
from chimera.core.tables import Parked, Progress
from chimera.entities import table_of
from chimera.errors import ChimeraError, SettingsError
from chimera.journal.checkpoints import Moved
from chimera.ports import Checkpoint, Move, Store
from chimera.testing.engines import sqlite_engines
from chimera.testing.fuse import Fuse, FusedStore
from chimera.testing.memory import MemoryStore
from chimera.testing.waiting import eventually, running
from chimera.upkeep.admission.naming import admit
from chimera.upkeep.status import rebuilds
from chimera.upkeep.tables.keeping import ask_for_tables, generations_of
from chimera.upkeep.tables.naming import built_name, mentioned, renamed, statement_in
from chimera.upkeep.tables.reports import last_table_report
from chimera.upkeep.tables.state import Built, change_state, read_generations_of
from chimera.upkeep.tables.store import GenerationsStore, with_generations
from chimera.views.generations import Generations
from tests.support import Engines, all_of, at_hand, direct, message_of, opened, positions_of
from tests.views.blog import TIMING, Answer, Reading, head

SETTINGS: Any = SimpleNamespace(services={"shop": None})


class Sell(Command, key="sale_id"):
    sale_id: str
    seller_id: str
    cents: int


class Sold(Event, source="shop", key="sale_id"):
    sale_id: str
    seller_id: str
    cents: int


class Turnover(Entity, key="seller_id", table="turnover"):
    seller_id: str
    cents: int = 0
    sales: int = 0


class Other(Entity, key="seller_id", table="others"):
    seller_id: str


SCHEMA = {
    "sqlite": (
        "CREATE TABLE IF NOT EXISTS sold (number INTEGER PRIMARY KEY, sale_id TEXT NOT NULL UNIQUE, cents INTEGER)",
        "CREATE INDEX IF NOT EXISTS sold_by_cents ON sold (cents)",
    )
}


class Shop:
    """A shop whose projection writes an entity's table, and on SQLite one of its own SQL."""

    def __init__(self, *, sql: bool = False, does: str = "", tables: Sequence[Any] | None = None) -> None:
        self.service = Service("shop", partitions=4)
        self.service.entity(Turnover)
        self.service.entity(Other)
        if sql:
            self.service.schema(SCHEMA)
        tables = [Turnover, *(["sold"] if sql else [])] if tables is None else tables

        @self.service.handle("POST /sales", direct=True)
        async def sell(command: Sell, tx: Transaction) -> None:
            tx.emit(Sold(command.sale_id, command.seller_id, command.cents))

        @self.service.project(Sold, name="index", tables=tables)
        async def index(events: list[Sold], tx: Transaction) -> None:
            for event in events:
                if Turnover in tables:
                    await indexed(event, tx, does)
                if sql:
                    await tx.execute("INSERT INTO sold (sale_id, cents) VALUES (?, ?)", event.sale_id, event.cents)

        _ask(self.service)


async def indexed(event: Sold, tx: Transaction, does: str) -> None:
    if does == "emits":
        tx.emit(Sold(f"again-{event.sale_id}", "x", 0))
    if does == "elsewhere":
        tx.save(Other(event.seller_id))
    found = await tx.load(Turnover, event.seller_id) or Turnover(event.seller_id)
    found.cents += event.cents
    found.sales += 1
    tx.save(found)


def _ask(service: Service) -> None:
    @service.get("/turnover/{seller_id}")
    async def turnover(seller_id: str, read: Reader) -> Turnover | None:
        return await read.load(Turnover, seller_id)

    @service.get("/sold")
    async def sold(read: Reader) -> int:
        return int((await read.execute("SELECT count(*) FROM sold"))[0][0])


async def selling(engines: Engines, shop: Shop | None = None) -> Context:
    return await opened((shop or Shop()).service, engines, timing=TIMING)


async def sell(context: Context, *sales: tuple[str, str, int]) -> list[Any]:
    messages = [message_of(Sell(*each), partitions=4) for each in sales]
    return await direct(context, *(msgspec.structs.replace(each, source="shop", type="shop.Sell") for each in messages))


async def state_of(context: Context) -> Generations:
    return await read_generations_of(generations_of(context).plain, "index")


async def serves(context: Context, number: int) -> bool:
    state = await state_of(context)
    return state.serving.number == number and state.building is None and not state.retired


async def turnover(context: Context) -> dict[str, tuple[int, int]]:
    async with context.store.snapshot() as session:
        table = table_of(Turnover)
        rows = [table.from_row(row) for row in await session.find(table, {})]
    return {each.seller_id: (each.cents, each.sales) for each in rows}


async def spoil(context: Context, seller_id: str, cents: int) -> None:
    """Change a row behind the projection's back."""
    table = table_of(Turnover)
    async with context.store.transaction() as session:
        await session.save(table, [table.to_row(Turnover(seller_id, cents, 99))])


async def settled(context: Context, reading: Reading) -> Answer:
    at = [f"shop/{partition}@{number}" for partition, number in (await context.store.heads()).items() if number]
    found: list[Answer] = []

    async def has_all() -> bool:
        found[:] = [await reading.get("/turnover/s0", after=at)]
        return "chimera-behind" not in found[0].headers

    await eventually(has_all)
    return found[0]


SALES = [(f"o{number}", f"s{number % 5}", number) for number in range(40)]
RIGHT = {f"s{seller}": (sum(n for n in range(40) if n % 5 == seller), 8) for seller in range(5)}


async def test_rows_that_were_spoilt_are_made_anew_beside_told_and_the_old_ones_dropped(engines: Engines) -> None:
    context = await selling(engines)
    reading = Reading(context)
    async with running(head(context).run()):
        await sell(context, *SALES)
        await settled(context, reading)
        assert await turnover(context) == RIGHT
        await spoil(context, "s1", 7)
        await spoil(context, "nobody", 1)
        assert await ask_for_tables(context, context.service.reactions["index"]) == 2
        await eventually(partial(serves, context, 2))
        assert await turnover(context) == RIGHT
        report = await last_table_report(generations_of(context).plain, "index")
        assert report is not None
        assert (report.equal, report.missing, report.new) == (4, 2, 1)
        assert {bytes(each.old) for each in report.samples if each.kind == "missing"} == {
            b'["s1",7,99]',
            b'["nobody",1,99]',
        }
        await sell(context, ("late", "s1", 5))
        assert (await settled(context, reading)).status == 200
        assert (await turnover(context))["s1"] == (RIGHT["s1"][0] + 5, 9)
    again = await selling(engines)
    assert (await turnover(again))["s1"] == (RIGHT["s1"][0] + 5, 9)


async def test_tables_of_the_authors_own_sql_are_built_anew_with_their_indexes(tmp_path: Path) -> None:
    engines = sqlite_engines(tmp_path)
    context = await selling(engines, Shop(sql=True))
    reading = Reading(context)
    async with running(head(context).run()):
        await sell(context, *SALES)
        await settled(context, reading)
        async with context.store.transaction() as session:
            await session.execute("UPDATE sold SET cents = -1 WHERE sale_id = 'o3'")
            await session.execute("DELETE FROM sold WHERE sale_id = 'o4'")
        for number in (2, 3):
            await ask_for_tables(context, context.service.reactions["index"])
            await eventually(partial(serves, context, number))
            report = await last_table_report(generations_of(context).plain, "index")
            assert report is not None
            assert (report.missing, report.new) == ((1, 2) if number == 2 else (0, 0))
        assert (await reading.get("/sold")).json == 40
        async with context.store.snapshot() as session:
            rows = await session.execute("SELECT sum(cents), count(*) FROM sold AS s WHERE 'sold' = 'so' || 'ld'")
            made = await session.execute("SELECT name FROM sqlite_master WHERE name LIKE 'sold%' ORDER BY name")
        assert rows == [(sum(range(40)), 40)]
        assert made == [("sold__3",), ("sold_by_cents__3",)]
    for engine in (engines.log, engines.store, engines.views):
        await engine.close()
    again = await selling(sqlite_engines(tmp_path), Shop(sql=True))
    assert (await Reading(again).get("/sold")).json == 40
    assert await turnover(again) == RIGHT


async def test_while_tables_are_built_readers_of_their_own_writes_never_see_less(engines: Engines) -> None:
    """Two heads write; each sale is looked for as soon as it is made, through three rebuilds."""
    context = await selling(engines)
    other = await selling(engines)
    reading = Reading(context)
    async with running(head(context).run(), head(other, "b").run()):
        await sell(context, *SALES)
        await settled(context, reading)
        done = 8
        for number in (2, 3, 4):
            await ask_for_tables(context, context.service.reactions["index"])
            while not await serves(context, number):
                done += 1
                [outcome] = await sell(context, (f"more{done}", "s0", 0))
                answer = await reading.get("/turnover/s0", after=positions_of(outcome))
                assert answer.json["sales"] == done or "chimera-behind" in answer.headers
                assert answer.json["sales"] <= done
        await settled(context, reading)
        assert (await turnover(context))["s0"] == (RIGHT["s0"][0], done)
        assert {seller: each for seller, each in (await turnover(context)).items() if seller != "s0"} == {
            seller: each for seller, each in RIGHT.items() if seller != "s0"
        }
    left = {row.consumer for row in await all_of(context.store, Progress)}
    assert not [name for name in left if "~" in name]


async def test_a_rebuild_that_is_killed_anywhere_goes_on(engines: Engines) -> None:
    context = await selling(engines)
    async with running(head(context).run()):
        await sell(context, *SALES)
        await settled(context, Reading(context))
    await spoil(context, "s1", 7)
    await ask_for_tables(context, context.service.reactions["index"])
    for turn in range(1, 60, 3):
        fuse = Fuse(turn, late=turn % 2 == 0)
        fused = await selling(engines)
        fusing = GenerationsStore(FusedStore(engines.store, fuse), fused.service)
        fusing.entities = generations_of(fused).entities
        fused = replace(fused, store=fusing)
        async with running(quietly(fused)):
            await eventually(partial(blown_or_done, fuse, context))
        if await serves(context, 2):
            break
    async with running(head(context).run()):
        await eventually(partial(serves, context, 2))
    assert await turnover(context) == RIGHT


async def blown_or_done(fuse: Fuse, context: Context) -> bool:
    return fuse.blown.is_set() or await serves(context, 2)


async def quietly(context: Context) -> None:
    """A write head that ends as it ends."""
    await asyncio.gather(head(context).run(), return_exceptions=True)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("emits", "index emits events, so its tables can't be built anew"),
        ("elsewhere", "index writes others, which is not in its tables=, so they can't be built anew"),
    ],
)
async def test_what_would_be_done_twice_is_not_and_the_old_tables_go_on(engines: Engines, does: str, said: str) -> None:
    before = await selling(engines)
    async with running(head(before).run()):
        await sell(before, *SALES)
        await settled(before, Reading(before))
    context = await selling(engines, Shop(does=does))
    await ask_for_tables(context, context.service.reactions["index"])
    heads = await context.store.heads()
    async with running(head(context).run()):
        await eventually(partial(is_held, context))
        [shown] = await rebuilds(context)
        assert said in shown["why"]
        assert "--force" in shown["why"]
        assert await context.store.heads() == heads
        assert await turnover(context) == RIGHT
        await change_state(generations_of(context).plain, context.clock, "index", Generations.cancelled)
        await eventually(partial(serves, context, 1))
    assert not [row for row in await all_of(context.store, Parked) if "~" in row.consumer]


async def test_whoever_still_builds_what_serves_by_now_leaves_nothing_behind(engines: Engines) -> None:
    """Nor parks an event: another head has it."""
    context = await selling(engines)
    await sell(context, *SALES)
    late = generations_of(context).building("index", 2)
    await late.make(Built("index", 2))
    reaction = context.service.reactions["index"]._replace(name=built_name("index", 2))
    executor = reaction_executor(replace(context, store=late), reaction, "shop")
    for partition in range(4):
        events = await context.store.journal(partition, 0, 100)
        moves = [Move("shop", partition, 0, Checkpoint(len(events)))]
        with pytest.raises(Moved, match="generation 2 of the tables of index is not being built any more"):
            await executor.run([Task(each, each.number) for each in events], moves)
    left = [*await all_of(context.store, Progress), *await all_of(context.store, Parked)]
    assert not [row for row in left if "~" in row.consumer]


async def is_held(context: Context) -> bool:
    building = (await state_of(context)).building
    return building is not None and building.phase == "held"


async def test_tables_whose_events_are_gone_can_not_be_built_anew(engines: Engines) -> None:
    context = await selling(engines)
    async with running(head(context).run()):
        await sell(context, *SALES)
        await settled(context, Reading(context))
    async with context.store.transaction() as session:
        for partition, number in (await session.heads()).items():
            await session.trim(partition, number)
    with pytest.raises(ChimeraError, match="the tables of index can't be built anew"):
        await ask_for_tables(context, context.service.reactions["index"])


async def test_tables_are_rebuilt_from_the_command_line_which_shows_the_rows(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = await selling(engines)
    at_hand(monkeypatch, command_line, context)
    async with running(head(context).run()):
        await sell(context, *SALES)
        await settled(context, Reading(context))
        await spoil(context, "s1", 7)
        await command_line.rebuild_view(SETTINGS, "shop", "index")
        shown = capsys.readouterr().out
        assert "shop index: generation 1 to 2" in shown
        assert '["s1",7,99]' in shown
        await eventually(partial(serves, context, 2))
        await command_line.rebuild_view(SETTINGS, "shop", "index", as_json=True)
        found = json.loads(capsys.readouterr().out)
    assert (found["old_generation"], found["new_generation"], found["equal"]) == (2, 3, len(RIGHT))
    assert await turnover(context) == RIGHT


async def test_the_command_line_says_what_can_not_be_done_with_tables(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = await selling(engines)
    async with running(head(before).run()):
        await sell(before, *SALES)
        await settled(before, Reading(before))
    context = await selling(engines, Shop(does="emits"))
    hurried = msgspec.structs.replace(TIMING, idle_s=0.02)
    at_hand(monkeypatch, command_line, replace(context, timing=hurried))
    with pytest.raises(SettingsError, match="index writes tables: the old ones are not kept; leave out --keep-old"):
        await command_line.rebuild_view(SETTINGS, "shop", "index", keep_old=True)
    with pytest.raises(SettingsError, match="the old ones are not kept; there is --cancel and --force"):
        await command_line.steer_rebuild(SETTINGS, "shop", "index", "back")
    with pytest.raises(ChimeraError, match="the tables of index are not being rebuilt"):
        await command_line.steer_rebuild(SETTINGS, "shop", "index", "cancel")
    with pytest.raises(SettingsError, match="has no view 'nothing'; its views: none; with tables: index"):
        await command_line.rebuild_view(SETTINGS, "shop", "nothing")
    with pytest.raises(ChimeraError, match="chimera run shop --write; the rebuild of the tables of index then goes on"):
        await command_line.rebuild_view(SETTINGS, "shop", "index")
    at_hand(monkeypatch, command_line, context)
    async with running(head(context).run()):
        with pytest.raises(ChimeraError, match="index emits events, so its tables can't be built anew"):
            await command_line.rebuild_view(SETTINGS, "shop", "index")
        await command_line.steer_rebuild(SETTINGS, "shop", "index", "cancel")
    assert "the tables of index are not rebuilt any more; generation 1 serves" in capsys.readouterr().out
    assert await turnover(context) == RIGHT


def test_names_are_exchanged_in_sql_and_in_what_a_schema_makes() -> None:
    names = (("sold", "sold__2"), ("sold_words", "sold_words__2"))
    sql = "SELECT sold.id, unsold, 'sold', bm25(sold_words) FROM sold JOIN resold JOIN \"sold\" JOIN sold_by_cents"
    assert renamed(sql, names) == (
        "SELECT sold__2.id, unsold, 'sold', bm25(sold_words__2) FROM sold__2 JOIN resold JOIN \"sold__2\" "
        "JOIN sold_by_cents"
    )
    assert mentioned(sql, ["sold", "words"]) == ["sold"]
    assert statement_in("create unique index if not exists sold_i on sold (id)", ["sold"], 3) == (
        "create unique index if not exists sold_i__3 on sold__3 (id)"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tables": ["sold"], "start": "now"}, 'tables that are built anew have all events: start="now" can\'t be'),
        ({"tables": "sold"}, r'tables= and compared= take several, as in tables=\["sold"\]'),
        ({"tables": ["so ld"]}, "'so ld' can't name a table that is built anew"),
        ({"tables": ["chimera_inbox"]}, "'chimera_inbox' can't name a table that is built anew"),
        ({"tables": ["turnover"]}, "the table turnover is in tables= of another project already"),
        ({"tables": ["sold"], "compared": ["others"]}, "compared= names others, which is not in tables="),
    ],
)
def test_tables_that_can_not_be_built_anew_are_refused_where_they_are_declared(
    given: dict[str, Any], said: str
) -> None:
    service = Shop().service

    async def second(events: list[Sold], tx: Transaction) -> None: ...

    with pytest.raises(DeclarationError, match=said) as refused:
        service.project(Sold, **given)(second)
    assert str(refused.value).startswith("tests/upkeep/test_table_rebuilds.py:")


def test_a_service_without_such_tables_uses_its_store_as_it_is() -> None:
    store: Store = MemoryStore()
    assert with_generations(Service("plain"), store) is store


async def test_a_table_that_is_said_later_is_as_it_was_and_one_that_is_not_said_any_more_refuses(
    tmp_path: Path,
) -> None:
    context = await selling(sqlite_engines(tmp_path), Shop(sql=True, tables=["sold"]))
    async with running(head(context).run()):
        await sell(context, *SALES)
        await settled(context, Reading(context))
        await ask_for_tables(context, context.service.reactions["index"])
        await eventually(partial(serves, context, 2))
    later = await selling(sqlite_engines(tmp_path), Shop(sql=True))
    assert (await Reading(later).get("/sold")).json == 40
    async with running(head(later).run()):
        await sell(later, ("late", "s9", 1))
        await eventually(lambda: is_sold(later, {"s9": (1, 1)}))
        await ask_for_tables(later, later.service.reactions["index"])
        await eventually(partial(serves, later, 3))
        assert await turnover(later) == RIGHT | {"s9": (1, 1)}
        assert (await Reading(later).get("/sold")).json == 41
    without = await selling(sqlite_engines(tmp_path), Shop(sql=True, tables=["sold"]))
    with pytest.raises(
        SettingsError, match="index writes turnover in generation 3, and has to say so: project"
    ) as said:
        await admit(without)
    assert str(said.value).startswith("tests/upkeep/test_table_rebuilds.py:")


async def is_sold(context: Context, wanted: dict[str, tuple[int, int]]) -> bool:
    return await turnover(context) == wanted
