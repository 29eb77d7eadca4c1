"""What engines with SQL promise alike, beyond the contract of the port `Store`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from msgspec import json

from chimera import Command, Event, Reads, Service, Transaction
from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.entities import Entity, InColumn, Row, Table, table_of
from chimera.errors import Conflict, DeclarationError, SettingsError, Unavailable
from chimera.messages import partition_of
from chimera.ports import Document, Store
from chimera.share.digests import SharedChange
from chimera.testing.contracts.bank import ACCOUNTS, EVERYTHING, PARTITIONS, TABLES, emitted, get, numbers, put
from chimera.testing.engines import memory_engines
from tests.support import make_context, message_of


class Thing(Entity, key="thing_id", table="things"):
    thing_id: str
    at: datetime


class ThingWithNote(Entity, key="thing_id", table="things"):
    thing_id: str
    at: datetime
    note: str | None = None


class ThingWithRemark(Entity, key="thing_id", table="things"):
    thing_id: str
    at: datetime
    remark: str | None = None


class ThingWithCount(Entity, key="thing_id", table="things"):
    thing_id: str
    at: datetime
    count: int


class ThingWithMore(Entity, key="thing_id", table="things"):
    """Fields of every kind that rows of before must have."""

    thing_id: str
    at: datetime
    text: str = "100%: it's a \\ :b"
    count: int = -3
    size: float = 0.5
    flag: bool = True
    raw: bytes = b"\x00'\xff"
    since: datetime = datetime(2024, 5, 1, 12, 0, 0, 5, tzinfo=UTC)
    day: date = date(2024, 5, 1)
    price: Decimal = Decimal("1.50")
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it
    empty: str = ""
    note: str | None = None


class ThingOfAnotherType(Entity, key="thing_id", table="things"):
    thing_id: str
    at: int


class CountedThing(Entity, key="thing_id", table="things"):
    thing_id: str
    at: Annotated[int, InColumn(sql="integer")]


class ThingOfAnotherKey(Entity, key=("thing_id", "at"), table="things"):
    thing_id: str
    at: datetime


class ThingSometime(Entity, key="thing_id", table="things"):
    thing_id: str
    at: datetime | None = None


class Journal(Entity, key="name", table="chimera_journal"):
    name: str


THING, AS_NUMBER, NOTED, MORE, REMARKED, COUNTED, RETYPED, REKEYED, SOMETIME = map(
    table_of,
    (
        Thing,
        CountedThing,
        ThingWithNote,
        ThingWithMore,
        ThingWithRemark,
        ThingWithCount,
        ThingOfAnotherType,
        ThingOfAnotherKey,
        ThingSometime,
    ),
)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Legacy(Entity, key="ref", table="shop_order"):
    """A row of a table that other code has made."""

    ref: Annotated[UUID, InColumn("id", "uuid")]
    mail: Annotated[str, InColumn("email_address", "varchar(40)")]
    price: Annotated[Decimal, InColumn(sql="numeric(10,2)")]
    count: Annotated[int, InColumn("qty", "integer")] = 1
    day: Annotated[date | None, InColumn(sql="date")] = None
    extra: Annotated[dict[str, int], InColumn(sql="jsonb")] = {}  # noqa: RUF012 - msgspec copies it
    made: Annotated[datetime, InColumn("created", "timestamp")] = NOON
    seen: Annotated[datetime, InColumn(sql="timestamptz")] = NOON
    code: Annotated[str, InColumn(sql="char(6)")] = ""
    paid: Annotated[bool, InColumn(sql="boolean")] = False


LEGACY = table_of(Legacy)
MADE_BY_OTHERS = {
    "sqlite": """CREATE TABLE shop_order (id char(36) NOT NULL PRIMARY KEY, email_address varchar(40) NOT NULL,
        price decimal NOT NULL, qty integer NOT NULL, day date, extra text NOT NULL, created datetime NOT NULL,
        seen datetime NOT NULL, code char(6) NOT NULL, paid bool NOT NULL, internal_note text)""",
    "postgresql": """CREATE TABLE shop_order (id uuid PRIMARY KEY, email_address varchar(40) NOT NULL,
        price numeric(10,2) NOT NULL, qty integer NOT NULL, day date, extra jsonb NOT NULL, created timestamp NOT NULL,
        seen timestamptz NOT NULL, code char(6) NOT NULL, paid boolean NOT NULL, internal_note text)""",
    "mysql": """CREATE TABLE shop_order (id char(36) NOT NULL PRIMARY KEY, email_address varchar(40) NOT NULL,
        price decimal(10,2) NOT NULL, qty int NOT NULL, day date, extra json NOT NULL, created datetime(6) NOT NULL,
        seen timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), code char(6) NOT NULL, paid boolean NOT NULL,
        internal_note text)""",
}
WRITTEN_BY_OTHERS = """INSERT INTO shop_order VALUES ('00000000-0000-0000-0000-00000000000a', 'ann@x', 10.50, 3,
    '2024-05-01', '{"a": 1}', '2024-05-01 12:00:00', '2024-05-01 12:00:00', 'ab', {}, 'kept')"""
Reopen = Callable[[], Any]


class Opened:
    """The fixtures of a contract suite for an engine of `adapter`, opened by the fixture `url`."""

    adapter: ModuleType
    kind = "store"

    def open(self, url: str) -> Any:
        return self.adapter.open_engine(self.kind, url)

    @pytest.fixture
    def reopen(self, url: str) -> Reopen:
        return lambda: self.open(url)

    @pytest.fixture
    async def engine(self, reopen: Reopen) -> AsyncIterator[Any]:
        engine = reopen()
        yield engine
        await engine.close()


class Client(Entity, key=("seller_id", "client_id"), table="clients"):
    seller_id: str
    client_id: str


class AddClient(Command, key="seller_id"):
    seller_id: str
    client_id: str


class ClientAdded(Event, source="clients", key="seller_id"):
    seller_id: str
    client_id: str


class Clients(msgspec.Struct):
    client_ids: list[str]


def sharing_service() -> Service:
    service = Service("clients", partitions=2)
    service.entity(Client)

    @service.handle(direct=True)
    async def add(command: AddClient, tx: Transaction) -> None:
        tx.save(Client(command.seller_id, command.client_id))
        tx.emit(ClientAdded(command.seller_id, command.client_id))

    @service.share("clients", key="seller_id", changed_by=[ClientAdded])
    async def clients_of(seller_ids: list[str], tx: Reads) -> dict[str, Clients]:
        found: dict[str, Clients] = {}
        for client in await tx.find(Client, seller_id=seller_ids):
            found.setdefault(client.seller_id, Clients([])).client_ids.append(client.client_id)
        return found

    return service


class SQLGuarantees(Opened):
    """What SQLite promises too."""

    async def test_what_is_shared_last_has_what_every_process_changed(self, reopen: Reopen) -> None:
        """Several processes add rows to one shared document at the same time; none emits it without the others'."""
        contexts = [make_context(sharing_service(), memory_engines()._replace(store=reopen())) for _ in range(3)]
        for context in contexts:
            await context.prepare()

        async def add(worker: int) -> None:
            executor = direct_executor(contexts[worker])
            for number in range(8):
                command = message_of(AddClient("s", f"{worker}-{number}"), partitions=2)
                command = msgspec.structs.replace(command, type="clients.AddClient")
                while isinstance((await executor.run([Task(command)]))[0], Unavailable):
                    pass

        await asyncio.gather(*map(add, range(3)))
        events = await contexts[0].store.journal(partition_of("s", 2), 0, 1000)
        shared = [json.decode(event.data, type=SharedChange) for event in events if ".share." in event.type]
        sizes = [len(json.decode(change.document, type=Clients).client_ids) for change in shared]
        assert sizes == list(range(1, 25))
        for context in contexts:
            await context.store.close()

    async def test_an_optional_field_that_is_new_becomes_a_column(self, engine: Store) -> None:
        await engine.create([THING], PARTITIONS)
        await save(engine, THING, ("a", NOON))
        await engine.create([NOTED], PARTITIONS)
        async with engine.transaction() as tx:
            assert await tx.load(NOTED, [("a",)]) == [("a", NOON, None)]

    async def test_a_new_field_with_a_default_becomes_a_column_in_which_rows_of_before_have_it(
        self, engine: Store
    ) -> None:
        """A build that does not know it goes on beside it, and leaves what is there."""
        await engine.create([THING], PARTITIONS)
        await save(engine, THING, ("a", NOON))
        for _ in range(2):
            await engine.create([MORE], PARTITIONS)
        [row] = await everything(engine, MORE)
        assert MORE.from_row(row) == ThingWithMore("a", NOON)
        await engine.create([THING], PARTITIONS)
        await save(engine, THING, ("b", NOON))
        changed = ThingWithMore("a", NOON, text="b", flag=False, tags=["x"])
        await save(engine, MORE, MORE.to_row(changed))
        await save(engine, THING, ("a", NOON + timedelta(hours=1)))
        found = [MORE.from_row(row) for row in await everything(engine, MORE)]
        assert found == [msgspec.structs.replace(changed, at=NOON + timedelta(hours=1)), ThingWithMore("b", NOON)]

    async def test_an_entity_is_in_a_table_that_other_code_has_made_and_goes_on_writing(self, engine: Store) -> None:
        """Its columns have other names and types; what others put there is read, and stays where no field is."""
        await engine.create([], PARTITIONS)
        async with engine.transaction() as tx:
            dialect = tx.dialect
            await tx.execute(MADE_BY_OTHERS[dialect])
        async with engine.transaction() as tx:
            await tx.execute(WRITTEN_BY_OTHERS.replace("{}", "true" if dialect == "postgresql" else "1", 1))
        await engine.create([LEGACY], PARTITIONS)
        first = Legacy(
            UUID(int=10), "ann@x", Decimal("10.50"), 3, date(2024, 5, 1), {"a": 1}, NOON, NOON, "ab", paid=True
        )
        [row] = await everything(engine, LEGACY)
        assert LEGACY.from_row(row) == first
        second = msgspec.structs.replace(first, ref=UUID(int=11), price=Decimal(7), day=None, code="abcdef")
        more = [msgspec.structs.replace(second, ref=UUID(int=100 + at), count=at) for at in range(40)]
        changed = msgspec.structs.replace(first, price=Decimal("0.01"), extra={"b": 2})
        rows = [LEGACY.to_row(each) for each in (second, *more, changed)]
        async with engine.transaction() as tx:
            await tx.load(LEGACY, [LEGACY.key_of(row) for row in rows])
            await tx.save(LEGACY, rows)
        found = [LEGACY.from_row(row) for row in await everything(engine, LEGACY)]
        assert found == [changed, second, *more]
        async with engine.snapshot() as session:
            for where, expected in (
                ({"price": Decimal("7.0"), "day": None, "count": [1, 39]}, [more[1], more[39]]),
                ({"ref": [UUID(int=11), UUID(int=12)]}, [second]),
                ({"made": NOON, "seen": NOON, "code": "abcdef", "mail": "ann@x", "count": 3}, [second, more[3]]),
                ({"day": date(2024, 5, 1)}, [changed]),
            ):
                assert [LEGACY.from_row(row) for row in await session.find(LEGACY, LEGACY.where(where))] == expected
            page = await session.scan(LEGACY, LEGACY.key_for((UUID(int=11),)), 2)
            assert [LEGACY.from_row(row) for row in page] == more[:2]
            notes = "SELECT count(*) FROM shop_order WHERE internal_note = 'kept' AND price < 1 AND qty + 1 = 4"
            assert [tuple(row) for row in await session.execute(notes)] == [(1,)]
        async with engine.transaction() as tx:
            await tx.delete(LEGACY, [LEGACY.key_for((UUID(int=10),))])
        assert len(await everything(engine, LEGACY)) == 41

    async def test_a_column_of_another_type_than_was_declared_is_refused(self, engine: Store) -> None:
        await engine.create([THING], PARTITIONS)
        with pytest.raises(SettingsError, match=r"'at' .*, give the field a new name, or convert"):
            await engine.create([AS_NUMBER], PARTITIONS)

    async def test_a_table_with_declared_types_is_made_where_there_is_none(self, engine: Store) -> None:
        """As far as the engine has them; what is saved comes back."""
        for _ in range(2):
            await engine.create([LEGACY], PARTITIONS)
        kept = Legacy(UUID(int=1), "ann@x", Decimal("99999999.99"), 3, date(2024, 5, 1), {"a": 1}, code="ab")
        await save(engine, LEGACY, LEGACY.to_row(kept))
        assert [LEGACY.from_row(row) for row in await everything(engine, LEGACY)] == [kept]

    @pytest.mark.parametrize(
        ("after", "says"),
        [
            (COUNTED, "lacks the column 'count'.*: give .*field a default, make it optional"),
            (
                RETYPED,
                "'at' .*(is TEXT, not INTEGER|needs bigint).*: .*give the field a new name, or convert the column",
            ),
        ],
        ids=["new", "type"],
    )
    async def test_a_table_that_does_not_fit_is_refused_with_what_to_do(
        self, engine: Store, after: Table, says: str
    ) -> None:
        await engine.create([THING], PARTITIONS)
        with pytest.raises(SettingsError, match=says):
            await engine.create([after], PARTITIONS)

    async def test_a_table_can_not_take_the_name_of_one_of_chimeras(self, engine: Store) -> None:
        with pytest.raises(DeclarationError, match="'chimera_journal'"):
            await engine.create([table_of(Journal)], PARTITIONS)

    async def test_a_session_is_of_no_use_after_its_block(self, engine: Store) -> None:
        await engine.create([THING], PARTITIONS)
        async with engine.transaction() as tx:
            pass
        async with engine.snapshot() as session:
            pass
        async with engine.transaction():
            for ended in (tx, session):
                with pytest.raises(RuntimeError, match="this session has ended"):
                    await ended.load(THING, [("a",)])

    async def test_an_engine_that_is_not_open_is_unavailable(self, engine: Store, reopen: Reopen) -> None:
        unopened = reopen()
        await engine.create([THING], PARTITIONS)
        await engine.close()
        for each in (unopened, engine):
            with pytest.raises(Unavailable, match="call create first"):
                await each.heads()
            with pytest.raises(Unavailable, match="call create first"):
                await save(each, THING, ("a", NOON))
            with pytest.raises(Unavailable, match="call create first"):
                async with each.snapshot():
                    pass

    @pytest.mark.parametrize("kind", ["store", "views"])
    def test_no_engine_is_opened_by_an_address_of_another(self, kind: str) -> None:
        with pytest.raises(SettingsError, match=r"looks like \w+://"):
            self.adapter.open_engine(kind, "redis://127.0.0.1/0")


class RelationalGuarantees(SQLGuarantees):
    """What the servers promise. A subclass says what follows, and its module has a fixture `url`."""

    typed: tuple[str, Any]
    """A query that needs the types of the columns of `Everything`, with a time as parameter; and its answer."""
    unsettling: str
    """SQL that makes a session's connection useless to others."""

    async def hang_up(self, engine: Any) -> None:
        """Make the server end every connection of this engine."""
        raise NotImplementedError

    def impatient(self, url: str) -> Any:
        """An engine that waits at most a second for a lock, and 0.05 seconds for a connection."""
        raise NotImplementedError

    @pytest.fixture
    async def views(self, url: str) -> AsyncIterator[Any]:
        views = self.adapter.open_engine("views", url)
        yield views
        await views.close()

    async def test_an_older_version_of_the_service_goes_on_beside_a_newer_one(
        self, engine: Store, reopen: Reopen
    ) -> None:
        await engine.create([NOTED], PARTITIONS)
        await save(engine, NOTED, ("a", NOON, "kept"))
        older = reopen()
        await older.create([THING], PARTITIONS)
        await save(older, THING, ("a", NOON.replace(hour=13)), ("b", NOON))
        async with engine.snapshot() as session:
            assert await session.find(NOTED, {}) == [("a", NOON.replace(hour=13), "kept"), ("b", NOON, None)]
        await older.close()

    async def test_a_field_that_may_be_none_from_now_on_may_be_null(self, engine: Store) -> None:
        await engine.create([THING], PARTITIONS)
        await engine.create([SOMETIME], PARTITIONS)
        await save(engine, SOMETIME, ("a", None))

    @pytest.mark.parametrize(
        ("before", "after", "says"),
        [
            (THING, RETYPED, r"has 'at' as .*, its field needs bigint: .*op\.alter_column\('things', 'at'"),
            (THING, REKEYED, "has the key thing_id, not thing_id, at"),
            (SOMETIME, THING, r"may hold NULL in 'at', .*op\.alter_column\('things', 'at',.* nullable=False"),
            (COUNTED, THING, r"has the column 'count', .*op\.drop_column\('things', 'count'"),
            (
                NOTED,
                REMARKED,
                r"lacks .*'remark' and has 'note', .*op\.alter_column\('things', 'note', .*'remark'.* op\.drop_column",
            ),
        ],
        ids=["type", "key", "null", "gone", "renamed"],
    )
    async def test_what_would_lose_or_misread_data_is_refused_with_what_to_do(
        self, engine: Store, before: Table, after: Table, says: str
    ) -> None:
        await engine.create([before], PARTITIONS)
        with pytest.raises(SettingsError, match=says) as refused:
            await engine.create([after], PARTITIONS)
        assert "chimera:" not in str(refused.value)

    async def test_a_refusal_gives_the_operation_that_adds_a_column_with_a_value(self, engine: Store) -> None:
        await engine.create([THING], PARTITIONS)
        with pytest.raises(SettingsError) as refused:
            await engine.create([COUNTED], PARTITIONS)
        column = "sa.Column('count', sa.BigInteger(), server_default='…', nullable=False)"
        assert f"with Alembic: op.add_column('things', {column})" in str(refused.value)

    async def test_many_may_create_at_once(self, engine: Any, reopen: Reopen, views: Any) -> None:
        stores = [engine, *(reopen() for _ in range(4))]
        await asyncio.gather(views.create(), *(store.create([*TABLES, NOTED], PARTITIONS) for store in stores))
        for at, store in enumerate(stores):
            await put(store, (f"{at}", at, None))
            await emitted(store, 0, "key")
        assert await numbers(engine, 0) == [1, 2, 3, 4, 5]
        assert await views.write("consumer", [Document("view", "key", b"1")], [])
        for store in stores[1:]:
            await store.close()

    async def test_tables_of_a_newer_chimera_are_refused(self, engine: Store) -> None:
        await engine.create([], PARTITIONS)
        async with engine.transaction() as tx:
            await tx.execute("UPDATE chimera_store_version SET version_num = 'store_999'")
        with pytest.raises(SettingsError, match=r"moved to store_999 by a newer Chimera.*update chimera-kit"):
            await engine.create([], PARTITIONS)

    async def test_columns_have_types_that_sql_can_use(self, engine: Store) -> None:
        await engine.create([EVERYTHING], PARTITIONS)
        row = (1, "x", 0.5, True, b"\x00", NOON, '["a",  "b"]', None, None, None)
        await save(engine, EVERYTHING, row)
        query, answer = self.typed
        async with engine.snapshot() as session:
            assert await session.load(EVERYTHING, [(1,)]) == [row]
            assert await session.find(EVERYTHING, {"tags": ['["a",  "b"]'], "flag": [True]}) == [row]
            assert await session.execute(query, [NOON.replace(hour=11)]) == [answer]

    async def test_what_sql_sets_ends_with_the_session(self, url: str) -> None:
        store = self.open(with_options(url, "pool=1"))
        await store.create([THING], PARTITIONS)
        async with store.transaction() as tx:
            await tx.execute(self.unsettling)
        await save(store, THING, ("a\\'", NOON))
        await store.close()

    @pytest.mark.parametrize("others", [0, 100])
    async def test_of_two_that_found_a_key_free_the_second_conflicts(self, engine: Store, others: int) -> None:
        await engine.create(TABLES, PARTITIONS)
        found, saved = asyncio.Barrier(2), asyncio.Event()
        keys = [("a",), *((f"b{number}",) for number in range(others))]

        async def insert(balance: int) -> None:
            async with engine.transaction() as tx:
                assert await tx.load(ACCOUNTS, keys) == []
                await found.wait()
                await tx.save(ACCOUNTS, [(*key, balance, None) for key in keys])
                saved.set()

        first, second = await asyncio.gather(insert(1), insert(2), return_exceptions=True)
        assert [type(first), type(second)].count(Conflict) == 1
        assert await get(engine, "a") == ("a", 1 if first is None else 2, None)

    async def test_of_two_that_read_a_whole_table_the_second_to_add_a_row_conflicts(self, engine: Store) -> None:
        await put(engine, ("z", 0, None))

        async def add() -> None:
            async with engine.transaction() as tx:
                assert len(await tx.find(ACCOUNTS, {})) == 1
                await put(engine, ("a", 1, None))
                await tx.save(ACCOUNTS, [("a", 2, None)])

        with pytest.raises(Conflict, match="somebody else inserted a row of contract_accounts"):
            await add()
        assert await get(engine, "a") == ("a", 1, None)

    async def test_a_deadlock_is_a_conflict_of_one_and_the_other_goes_on(self, engine: Store) -> None:
        await put(engine, ("a", 1, None), ("b", 1, None))
        locked = asyncio.Barrier(2)

        async def cross(own: str, other: str) -> None:
            async with engine.transaction() as tx:
                await tx.load(ACCOUNTS, [(own,)])
                await locked.wait()
                await tx.load(ACCOUNTS, [(other,)])
                await tx.save(ACCOUNTS, [(own, 2, None), (other, 2, None)])

        done = await asyncio.gather(cross("a", "b"), cross("b", "a"), return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["Conflict", "NoneType"]
        assert await get(engine, "a") == ("a", 2, None)

    async def test_a_row_locked_for_too_long_is_a_conflict(self, engine: Store, url: str) -> None:
        await put(engine, ("a", 1, None))
        impatient = self.impatient(url)
        await impatient.create(TABLES, PARTITIONS)
        async with engine.transaction() as holder:
            await holder.load(ACCOUNTS, [("a",)])
            with pytest.raises(Conflict):
                await put_after_load(impatient, ("a", 2, None))
        await put_after_load(impatient, ("a", 3, None))
        assert await get(engine, "a") == ("a", 3, None)
        await impatient.close()

    async def test_a_failure_that_was_swallowed_keeps_nothing(self, engine: Store) -> None:
        await put(engine, ("a", 1, None))

        async def swallow() -> None:
            async with engine.transaction() as tx:
                await tx.save(ACCOUNTS, [("b", 1, None)])
                with suppress(Exception):
                    await tx.execute("SELEC 1")

        with pytest.raises(Exception, match="SELEC"):
            await swallow()
        assert await get(engine, "b") is None

    async def test_keys_compare_and_order_by_their_bytes(self, engine: Store) -> None:
        names = ["a", "A", "a ", "ä", "a\u0301", "b", "B", "🦁", "\uffff", "ß", "ss", " a"]
        await put(engine, *((name, at, name) for at, name in enumerate(names)))
        async with engine.snapshot() as session:
            assert [row[0] for row in await session.find(ACCOUNTS, {})] == sorted(names, key=str.encode)
            for at, name in enumerate(names):
                assert await session.load(ACCOUNTS, [(name,)]) == [(name, at, name)]
                assert [row[0] for row in await session.find(ACCOUNTS, {"nickname": [name]})] == [name]

    async def test_a_unique_index_of_ones_own_is_no_conflict_and_guards_the_other_row(self, engine: Store) -> None:
        await put(engine, ("a", 7, None))
        async with engine.transaction() as tx:
            await tx.execute("CREATE UNIQUE INDEX one_balance ON contract_accounts (balance)")
        with pytest.raises(Exception, match="one_balance") as refused:
            await put(engine, ("b", 7, "new"))
        assert not isinstance(refused.value, Conflict)
        assert await get(engine, "a") == ("a", 7, None)

    async def test_idle_connections_that_the_server_ended_are_replaced_unseen(self, engine: Any, views: Any) -> None:
        await put(engine, ("a", 1, None))
        await views.create()
        for each in (engine, views):
            await self.hang_up(each)
        assert await numbers(engine, 0) == []
        assert dict(await views.get("view", ["a"])) == {}
        await put(engine, ("b", 1, None))

    async def test_a_connection_lost_in_a_transaction_is_unavailable_and_nothing_is_kept(self, engine: Any) -> None:
        await put(engine, ("a", 1, None))

        async def lose() -> None:
            async with engine.transaction() as tx:
                await tx.save(ACCOUNTS, [("a", 2, None)])
                await self.hang_up(engine)
                await tx.save(ACCOUNTS, [("b", 2, None)])

        with pytest.raises(Unavailable, match=r"://chimera@127\.0\.0\.1"):
            await lose()
        assert await get(engine, "a") == ("a", 1, None)
        assert await get(engine, "b") is None

    async def test_whatever_a_driver_raises_as_its_connection_ends_is_unavailable(
        self, engine: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await put(engine, ("a", 1, None))
        database = engine._database

        async def ending(connection: Any, *_: Any, **__: Any) -> Any:
            monkeypatch.undo()
            await database.disconnect(connection)
            raise AttributeError("'NoneType' object has no attribute 'write'")

        async def lose() -> None:
            async with engine.transaction() as tx:
                monkeypatch.setattr(database, "fetch", ending)
                await tx.load(ACCOUNTS, [("a",)])

        with pytest.raises(Unavailable, match="NoneType"):
            await lose()
        assert await get(engine, "a") == ("a", 1, None)

    async def test_too_few_connections_are_unavailable_with_what_to_do(self, url: str) -> None:
        engine = self.impatient(url)
        await engine.create(TABLES, PARTITIONS)
        entered, leave = asyncio.Semaphore(0), asyncio.Event()

        async def hold() -> None:
            async with engine.snapshot():
                entered.release()
                await leave.wait()

        holding = [asyncio.create_task(hold()) for _ in range(8)]
        for _ in holding:
            await entered.acquire()
        with pytest.raises(Unavailable, match=r"all 8 connections were in use .*pool="):
            await engine.heads()
        leave.set()
        await asyncio.gather(*holding)
        assert len(await engine.heads()) == PARTITIONS
        await engine.close()

    async def test_who_is_not_let_in_or_finds_nobody_is_told_so_without_the_password(self, url: str) -> None:
        start, _, place = url.rpartition("@")
        scheme = start.partition("://")[0]
        host, path = place.partition(":")[0], place.partition("/")[2]
        wrong = {
            f"{scheme}://chimera:hunter2@{place}": SettingsError,
            f"{scheme}://chimera:hunter2@{host}:1/{path}": Unavailable,
        }
        for address, error in wrong.items():
            store = self.open(address)
            with pytest.raises(error) as refused:
                await store.create([], 1)
            assert f"{scheme}://chimera@{host}" in str(refused.value)
            assert "hunter2" not in str(refused.value)
            await store.close()

    @pytest.mark.parametrize(
        ("kind", "rest", "says"),
        [
            ("store", "db.example/shop", "db.example/shop' is no address"),
            ("views", "me@:5432/shop", "is no address"),
            ("store", "me:secret@db:port/shop", "'db:port/shop' is no address"),
            ("store", "me:secret@db/shop?pool=none", "pool=none"),
            ("log", "me:secret@db/shop", "is no log; use it as store or views"),
        ],
    )
    def test_a_wrong_url_is_refused_without_its_password(self, kind: str, rest: str, says: str) -> None:
        scheme = self.adapter.__name__.rpartition(".")[2]
        with pytest.raises(SettingsError, match=says) as refused:
            self.adapter.open_engine(kind, f"{scheme}://{rest}")
        assert "secret" not in str(refused.value)


def with_options(url: str, options: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{options}"


async def everything(engine: Store, table: Table) -> list[Row]:
    """All rows, by key."""
    async with engine.snapshot() as session:
        return list(await session.find(table, {}))


async def save(engine: Store, table: Table, *rows: Any) -> None:
    async with engine.transaction() as tx:
        await tx.save(table, rows)


async def put_after_load(engine: Store, row: Any) -> None:
    async with engine.transaction() as tx:
        await tx.load(ACCOUNTS, [row[:1]])
        await tx.save(ACCOUNTS, [row])
