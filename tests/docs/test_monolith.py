"""The page about a monolith's table is walked, step by step, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.context import Context
from chimera.messages import Message
from chimera.testing.engines import OpenEngines, sqlite_engines
from tests.adapters.services import need_packages, unused, url_of
from tests.support import TIME, handled, opened, project, stored

PAGE = (Path(__file__).parents[2] / "docs" / "monolith.md").read_text()
PYTHON = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
SQL = dict(re.findall(r"^```sql\n-- ([\w ]+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


class Monolith(NamedTuple):
    """The old code, with its own way to the database."""

    engines: OpenEngines
    kind: str
    url: str
    schema: str

    async def does(self, work: Callable[[Session], None]) -> None:
        """A transaction of the old code's."""

        def run(connection: sa.Connection) -> None:
            with Session(connection) as session:
                work(session)
                session.commit()

        if self.kind == "sqlite":
            await asyncio.to_thread(self._on_sqlite, run)
            return
        settings = {"server_settings": {"search_path": self.schema}}
        engine = create_async_engine(self.url, poolclass=NullPool, connect_args=settings)
        async with engine.begin() as connection:
            await connection.run_sync(run)

    def _on_sqlite(self, run: Callable[[sa.Connection], None]) -> None:
        with sa.create_engine(self.url, poolclass=NullPool).begin() as connection:
            run(connection)

    async def migrate(self, step: str) -> None:
        """Run what the page shows under this name."""
        script = SQL.get(step) or SQL[f"{step} on {self.kind}"]
        if self.kind == "sqlite":
            connection = sqlite3.connect(self.url.removeprefix("sqlite:///"))
            connection.executescript(script)
            connection.close()
            return
        await on_postgresql(self.schema, script)


async def on_postgresql(schema: str, script: str) -> None:
    import asyncpg  # type: ignore[import-untyped]  # it ships no types

    connection = await asyncpg.connect(url_of("postgresql"), server_settings={"search_path": schema})
    await connection.execute(script)
    await connection.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def monolith(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Monolith]:
    engines, url, schema = sqlite_engines(tmp_path), f"sqlite:///{tmp_path / 'store.db'}", unused("monolith")
    if request.param == "postgresql":
        need_packages("postgresql")
        from chimera.adapters.relational.postgresql import PostgreSQLStore

        server = url_of("postgresql")
        await on_postgresql(schema, f"CREATE SCHEMA {schema}")
        engines = engines._replace(store=PostgreSQLStore(f"{server}?schema={schema}"))
        url = server.replace("postgresql://", "postgresql+asyncpg://", 1).partition("?")[0]
    yield Monolith(engines, request.param, url, schema)
    await engines.close()
    if request.param == "postgresql":
        await on_postgresql(schema, f"DROP SCHEMA {schema} CASCADE")


def module_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(PYTHON[name], name, "exec", dont_inherit=True), vars(module))
    return module


ids = itertools.count(1)


async def answered(context: Context, command: Any) -> str:
    name = type(command).__name__
    message = Message(f"{name} {next(ids)}", "shop", f"shop.{name}", command.key, TIME, msgspec.json.encode(command), 0)
    [outcome] = handled(await direct_executor(context).run([Task(message)]))
    assert outcome.state == "done", outcome
    return outcome.body.decode()


async def test_the_page_is_walked(monolith: Monolith, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = module_of("monolith", monkeypatch), module_of("shop", monkeypatch)
    order = old.Order

    async def events() -> int:
        return sum((await context.store.heads()).values())

    async def shown_as_stored() -> bool:
        await project(context, new.pages)
        async with context.store.snapshot() as session:
            rows = await session.execute("SELECT id, email_address, total_cents, status FROM shop_order ORDER BY id")
        pages = [list(page.values()) for _, page in sorted((await stored(context.views, "order_page")).items())]
        return pages == list(map(list, rows))

    def begin(session: Session) -> None:
        old.Base.metadata.create_all(session.connection())
        session.add(order(id="o1", email_address="ann@x", total_cents=100))
        session.add(order(id="o2", email_address="bob@x", total_cents=200))

    await monolith.does(begin)
    context = await opened(new.shop, monolith.engines)
    await monolith.migrate("capture")
    assert await answered(context, new.Capture()) == "0"
    await monolith.migrate("touch")
    assert await answered(context, new.Capture()) == "2"
    assert await shown_as_stored()

    def go_on(session: Session) -> None:
        session.add(order(id="o3", email_address="ann@x", total_cents=300))
        session.flush()
        session.get_one(order, "o1").status = "paid"
        session.delete(session.get_one(order, "o2"))

    await monolith.does(go_on)
    assert await answered(context, new.Capture()) == "3"
    assert await answered(context, new.Capture()) == "0"
    assert await shown_as_stored()

    def give_up(session: Session) -> None:
        session.get_one(order, "o1").status = "lost"
        session.flush()
        raise KeyError

    with pytest.raises(KeyError):
        await monolith.does(give_up)

    def pay(session: Session) -> None:
        session.get_one(order, "o3").status = "paid"

    await monolith.does(pay)
    before = await events()
    await answered(context, new.SetStatus("o3", "sent"))
    assert await events() == before + 2, "what the old code has left, and what the command did"
    assert await answered(context, new.Capture()) == "0"
    assert await shown_as_stored()

    await monolith.migrate("cut")
    await answered(context, new.SetStatus("o1", "sent"))
    assert await events() == before + 3
    assert await answered(context, new.Capture()) == "0"
    assert await shown_as_stored()
    context = await opened(new.shop, monolith.engines)
    await answered(context, new.SetStatus("o1", "done"))
    assert await shown_as_stored()
