"""SQLAlchemy in a handler's transaction: what it writes commits with it or not at all, and nothing else ends it."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, ForeignKey, Numeric, String, func, insert, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from chimera import Command, Entity, Event, Rejected, Service, Transaction
from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.context import Context
from chimera.testing.engines import OpenEngines, memory_engines, sqlite_engines
from tests.adapters.services import need_packages, unused, url_of
from tests.support import handled, message_of, opened


class Base(DeclarativeBase):
    pass


class Buyer(Base):
    __tablename__ = "lent_buyer"
    buyer_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    credit: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    tags: Mapped[list[str]] = mapped_column(JSON)
    orders: Mapped[list[Order]] = relationship(order_by="Order.order_id")


class Order(Base):
    __tablename__ = "lent_order"
    order_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    buyer_id: Mapped[str] = mapped_column(ForeignKey("lent_buyer.buyer_id"))


class Stock(Entity, key="sku", table="lent_stock"):
    sku: str
    count: int


class Buy(Command, key="order_id"):
    order_id: str
    how: str = ""


class Bought(Event, source="accounts", key="order_id"):
    order_id: str


TABLES = [
    "CREATE TABLE IF NOT EXISTS lent_buyer (buyer_id varchar(40) PRIMARY KEY, credit numeric(10,2), tags json)",
    "CREATE TABLE IF NOT EXISTS lent_order (order_id varchar(40) PRIMARY KEY, buyer_id varchar(40) NOT NULL)",
]


def build(then: Any = None) -> Service:
    service = Service("accounts")
    service.entity(Stock)
    service.schema(dict.fromkeys(("sqlite", "postgresql", "mysql"), TABLES))

    @service.handle(direct=True)
    async def buy(command: Buy, tx: Transaction) -> object:
        tx.save(Stock("x", 1))
        tx.emit(Bought(command.order_id))
        session = await tx.sqlalchemy()
        if await session.get(Buyer, "ann") is None:
            session.add(Buyer(buyer_id="ann", credit=Decimal("9.90"), tags=["100% new"]))
        session.add(Order(order_id=command.order_id, buyer_id="ann"))
        return await then(session, tx, command) if then else None

    return service


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenEngines]:
    made, name = sqlite_engines(tmp_path), unused("lent")
    clear: Callable[[], Awaitable[object]] | None = None
    if request.param == "postgresql":
        need_packages("postgresql")
        from chimera.adapters.relational.postgresql import PostgreSQLStore
        from tests.adapters.test_postgresql import administer

        made = made._replace(store=PostgreSQLStore(f"{url_of('postgresql')}?schema={name}"))
        clear = partial(administer, f"DROP SCHEMA IF EXISTS {name} CASCADE")
    elif request.param == "mysql":
        need_packages("mysql")
        from chimera.adapters.relational.mysql import MySQLStore
        from tests.adapters.test_mysql import administer as administer_mysql

        made = made._replace(store=MySQLStore(f"{url_of('mysql').rpartition('/')[0]}/{name}"))
        clear = partial(administer_mysql, f"DROP DATABASE IF EXISTS {name}")
    yield made
    await made.close()
    if clear is not None:
        await clear()


async def run(context: Context, order_id: str, how: str = "") -> str:
    [outcome] = handled(await direct_executor(context).run([Task(message_of(Buy(order_id, how)))]))
    if outcome.state == "failed":
        return f"{outcome.reason}: {outcome.detail}"
    return outcome.reason or outcome.body.decode() or outcome.state


async def counts(context: Context) -> tuple[int, int, int]:
    """Rows of SQLAlchemy's, of Chimera's, and events."""
    async with context.store.snapshot() as session:
        [(orders,)] = await session.execute("SELECT count(*) FROM lent_order")
        [(stock,)] = await session.execute("SELECT count(*) FROM lent_stock")
    return int(orders), int(stock), sum((await context.store.heads()).values())


async def test_both_commit_together_and_see_each_other(engines: OpenEngines) -> None:
    async def look(session: AsyncSession, tx: Transaction, command: Buy) -> object:
        assert await session.scalar(text("SELECT count(*) FROM lent_stock")) == 1
        await session.execute(insert(Order).values(order_id="beside", buyer_id="ann"))
        await session.execute(text("UPDATE lent_stock SET count = 7 WHERE sku LIKE '%x'"))
        found = await tx.load(Stock, "x")
        [buyer] = (await session.scalars(select(Buyer).options(selectinload(Buyer.orders)))).all()
        assert await tx.sqlalchemy() is session
        orders = [order.order_id for order in buyer.orders]
        return [found.count if found else 0, str(buyer.credit), buyer.tags, orders]

    context = await opened(build(look), engines)
    assert await run(context, "o1") == '[7,"9.90",["100% new"],["beside","o1"]]'
    assert await counts(context) == (2, 1, 1)


async def test_what_is_pending_is_sent_when_the_handler_returns(engines: OpenEngines) -> None:
    context = await opened(build(), engines)
    assert await run(context, "o1") == "done"
    assert await run(context, "o2") == "done"
    assert await counts(context) == (2, 1, 2)


async def test_a_refusal_leaves_nothing_of_either(engines: OpenEngines) -> None:
    async def refuse(session: AsyncSession, tx: Transaction, command: Buy) -> object:
        await session.flush()
        raise Rejected("sold_out")

    context = await opened(build(refuse), engines)
    assert await run(context, "o1") == "sold_out"
    assert await counts(context) == (0, 0, 0)


@pytest.mark.parametrize("how", ["commit", "begin", "rollback", "caught"])
async def test_nothing_else_ends_the_transaction(engines: OpenEngines, how: str) -> None:
    async def end(session: AsyncSession, tx: Transaction, command: Buy) -> object:
        if how == "begin":
            await session.flush()
            session.sync_session.get_transaction().commit()  # type: ignore[union-attr]
        elif how == "caught":
            try:
                session.add(Order(order_id="o1", buyer_id="ann"))
                await session.flush()
                session.expunge_all()
                session.add(Order(order_id="o1", buyer_id="ann"))
                await session.flush()
            except Exception:  # noqa: BLE001 - that is the mistake
                return "went on"
        else:
            await getattr(session, how)()
        return None

    context = await opened(build(end), engines)
    said = await run(context, "o1")
    assert re.search("IntegrityError|UniqueViolation" if how == "caught" else "commits when the handler returns", said)
    assert await counts(context) == (0, 0, 0)


async def test_a_savepoint_may_be_given_up(engines: OpenEngines) -> None:
    async def twice(session: AsyncSession, tx: Transaction, command: Buy) -> object:
        await session.flush()
        try:
            async with session.begin_nested():
                await session.execute(insert(Order).values(order_id=command.order_id, buyer_id="ann"))
        except IntegrityError:
            return await session.scalar(select(func.count()).select_from(Order))
        return "it was free"

    context = await opened(build(twice), engines)
    assert await run(context, "o1") == "1"
    assert await counts(context) == (1, 1, 1)


async def test_a_session_that_was_kept_is_of_no_use(engines: OpenEngines) -> None:
    kept: list[AsyncSession] = []

    async def keep(session: AsyncSession, tx: Transaction, command: Buy) -> object:
        kept.append(session)
        return None

    context = await opened(build(keep), engines)
    assert await run(context, "o1") == "done"
    with pytest.raises((RuntimeError, SQLAlchemyError), match=r"has ended|closed"):
        await kept[0].execute(text("DELETE FROM lent_order"))
    assert await counts(context) == (1, 1, 1)


async def test_a_store_without_a_connection_says_so() -> None:
    engines = memory_engines()
    context = await opened(build(), engines)
    assert "this store has no connection that SQLAlchemy can use" in await run(context, "o1")


async def test_without_its_packages_it_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "greenlet", None)
    engines = sqlite_engines(tmp_path)
    context = await opened(build(), engines)
    assert "type pip install 'chimera-kit[sqlalchemy]'" in await run(context, "o1")
    await engines.close()
