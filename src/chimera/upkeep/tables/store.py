"""A store in which tables that `project` writes are those of the generation that serves, whoever names them.

Nothing is looked up before such a table is named. A transaction that writes may then read the generation without
locking it, for who switches holds all checkpoints of the reaction, and it holds those that it moves itself; while
another generation is built, it is locked all the same. Who builds has one generation given, and always locks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any

from chimera.entities import Key, Range, Row, Table, Window
from chimera.errors import Conflict, Unfit
from chimera.journal.checkpoints import Moved
from chimera.messages import Message
from chimera.parts import Reaction
from chimera.ports import Lends, Session, Store, Tip, WriteSession, wakes
from chimera.service import Service
from chimera.upkeep.tables.naming import mentioned, names_in, renamed, renamed_table, statements_in, table_in
from chimera.upkeep.tables.state import STATES, Built, TablesState, held_state, states_in

OWN = "chimera_"
"""The beginning of the names of Chimera's own tables."""


class GenerationsStore:
    """A service's store, that knows its tables' generations. `built`: as whoever builds one of them sees it."""

    def __init__(self, store: Store, service: Service, built: Built | None = None) -> None:
        self.features = store.features
        self.plain = store
        self.built = built
        self._service = service
        self.owner = {name: each.name for each in service.reactions.values() for name in each.tables}
        self.known: set[Built] = set()
        """The generations whose tables this process has seen to."""
        self.wanted: set[Built] = set()
        self.entities: dict[str, Table] = {}

    def building(self, reaction: str, number: int) -> GenerationsStore:
        """The same store for whoever builds a generation."""
        other = GenerationsStore(self.plain, self._service, Built(reaction, number))
        other.entities = self.entities
        return other

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        self.entities = {table.name: table for table in tables if table.name in self.owner}
        others = [table for table in tables if table.name not in self.owner]
        free = {
            dialect: [line for line in lines if not mentioned(line, [*self.owner])]
            for dialect, lines in statements.items()
        }
        await self.plain.create(others, partitions, free)
        if STATES.name not in {table.name for table in tables}:  # it is only looked at whose the store is
            return
        async with self.plain.snapshot(once=True) as session:
            states = await states_in(session)
        for reaction in self._service.reactions.values():
            if reaction.tables:
                await self.make(states.get(reaction.name, TablesState()).serving(reaction))

    async def make(self, which: Built) -> None:
        """Make sure that the tables of a generation are there."""
        for number in dict.fromkeys((1, which.number)):
            names = [name for name in self.reaction(which).tables if which.number_of(name) == number]
            tables = [renamed_table(self.entities[name], number) for name in names if name in self.entities]
            if names:
                statements = statements_in(self._service.statements, names, number)
                await self.plain.create(tables, self._service.partitions, statements)
        self.known.add(which)

    def reaction(self, which: Built) -> Reaction:
        """The reaction that writes a generation."""
        return self._service.reactions[which.reaction]

    async def drop(self, which: Built) -> None:
        """Drop the tables of a generation."""
        names = self.reaction(which).tables
        async with self.plain.snapshot(once=True) as session:
            dialect = session.dialect
        dropping = [f"DROP TABLE IF EXISTS {table_in(name, which.number)}" for name in names]
        if dialect:
            await self.plain.create([], self._service.partitions, {dialect: dropping})
        self.known.discard(which)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        while self.wanted:
            await self.make(self.wanted.pop())
        async with self.plain.transaction() as session:
            yield (_LentWrites if isinstance(session, Lends) else _Writes)(session, self)

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        async with self.plain.snapshot(once=once) as session:
            yield _Looks(session, self)

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return await self.plain.journal(partition, after, limit)

    async def heads(self) -> Mapping[int, int]:
        return await self.plain.heads()

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        return await self.plain.chain(at)

    async def oldest(self) -> Mapping[int, int]:
        return await self.plain.oldest()

    async def types(self) -> Mapping[str, int]:
        return await self.plain.types()

    async def close(self) -> None:
        await self.plain.close()


class WakingStore(GenerationsStore):
    """One that tells when others write to it."""

    def listen(self, heard: Callable[[], None]) -> None:
        """As `Wakes.listen`."""
        assert wakes(self.plain)
        self.plain.listen(heard)


def with_generations(service: Service, store: Store) -> Store:
    """The store as a service uses it: itself, where no reaction has tables that are built anew."""
    if not any(reaction.tables for reaction in service.reactions.values()):
        return store
    return (WakingStore if wakes(store) else GenerationsStore)(store, service)


class _Looks:
    """A session in which tables have the names of their generation."""

    def __init__(self, session: Session, store: GenerationsStore) -> None:
        self.dialect = session.dialect
        self._session = session
        self._store = store
        self._found: dict[str, Built] = {}

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        return await self._session.load(await self._of(table), keys)

    async def find(self, table: Table, where: Mapping[str, Sequence[object]]) -> Sequence[Row]:
        return await self._session.find(await self._of(table), where)

    async def page(self, table: Table, where: Mapping[str, Sequence[object]], window: Window) -> Sequence[Row]:
        return await self._session.page(await self._of(table), where, window)

    async def count(
        self, table: Table, where: Mapping[str, Sequence[object]], ranges: Mapping[str, Range] = MappingProxyType({})
    ) -> int:
        return await self._session.count(await self._of(table), where, ranges)

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        return await self._session.scan(await self._of(table), after, limit)

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        named = mentioned(sql, [*self._store.owner])
        names = [pair for name in named for pair in names_in([name], await self._number(name))]
        return await self._session.execute(renamed(sql, tuple(names)), parameters)

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return await self._session.history(partition, key, after)

    async def heads(self) -> Mapping[int, int]:
        return await self._session.heads()

    async def _of(self, table: Table) -> Table:
        if table.name not in self._store.owner:
            return table
        return renamed_table(table, await self._number(table.name))

    async def _number(self, table: str) -> int:
        """The generation of a table that this session is to read or write."""
        reaction = self._store.owner[table]
        if reaction not in self._found:
            self._found[reaction] = await self._look(reaction)
        return self._found[reaction].number_of(table)

    async def _look(self, reaction: str) -> Built:
        state = (await states_in(self._session)).get(reaction, TablesState())
        return state.serving(self._store.reaction(Built(reaction)))


class _Writes(_Looks):
    """The same, of a transaction that writes."""

    def __init__(self, session: WriteSession, store: GenerationsStore) -> None:
        super().__init__(session, store)
        self._writing = session

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        self._check(table)
        await self._writing.save(await self._of(table), rows)

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        self._check(table)
        await self._writing.delete(await self._of(table), keys)

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        return await self._writing.hold(partitions)

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        return await self._writing.expire(await self._of(table), column, before, limit)

    async def trim(self, partition: int, through: int) -> None:
        await self._writing.trim(partition, through)

    async def append(self, events: Sequence[Message]) -> None:
        if self._store.built is not None:
            raise Unfit(f"{self._store.built.reaction} emits events, so its tables can't be built anew")
        await self._writing.append(events)

    async def _look(self, reaction: str) -> Built:
        built = self._store.built
        if built is not None and built.reaction == reaction:
            if not (await held_state(self._session, reaction)).generations.is_building(built.number):
                raise Moved(f"generation {built.number} of the tables of {reaction} is not being built any more")
            return built
        state = (await states_in(self._session)).get(reaction, TablesState())
        if state.generations.building is not None:
            state = await held_state(self._session, reaction)
        which = state.serving(self._store.reaction(Built(reaction)))
        if which not in self._store.known:
            self._store.wanted.add(which)
            raise Conflict(f"the tables of {reaction} are others now")
        return which

    def _check(self, table: Table) -> None:
        built = self._store.built
        if built is not None and not table.name.startswith(OWN) and self._store.owner.get(table.name) != built.reaction:
            raise Unfit(
                f"{built.reaction} writes {table.name}, which is not in its tables=, so they can't be built anew"
            )


class _LentWrites(_Writes):
    """One on whose connection SQLAlchemy can work, with tables by the names that they have."""

    async def sqlalchemy(self) -> Any:
        """As `Lends.sqlalchemy`. Raises Unfit for who builds: what it writes there has the names that it is given."""
        if self._store.built is not None:
            raise Unfit(f"{self._store.built.reaction} uses SQLAlchemy, so its tables can't be built anew")
        assert isinstance(self._writing, Lends)
        return await self._writing.sqlalchemy()
