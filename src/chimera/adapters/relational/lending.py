"""SQLAlchemy on a connection of Chimera's: what it does is part of the transaction, which it can't end.

A session is lent for as long as the transaction lasts. Its dialect is the engine's own, but for what begins, ends and
closes: that is left to whoever lends. Nothing here is imported before somebody asks for a session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.dialects.mysql.asyncmy import AsyncAdapt_asyncmy_connection, MySQLDialect_asyncmy
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection, PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine, ExceptionContext, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import NullPool
from sqlalchemy.util import LRUCache

from chimera.errors import ChimeraError

_ENDS = (
    "this session is in the transaction of the command, which commits when the handler returns and rolls back when it "
    "raises: leave {}() out, and type await session.flush() to send what is pending"
)


class Lender(Protocol):
    """The session of a store that lends its connection."""

    def check(self) -> None:
        """Raises RuntimeError when the transaction has ended."""

    def meaning(self, error: Exception) -> Exception:
        """An error of the driver as Chimera tells it."""

    def failed(self, error: Exception) -> None:
        """Note that the transaction can't commit any more, and why."""


class _Lent:
    """What of a dialect would begin, end or close what is not its own does nothing."""

    def do_begin(self, dbapi_connection: Any) -> None: ...

    def do_commit(self, dbapi_connection: Any) -> None: ...

    def do_rollback(self, dbapi_connection: Any) -> None: ...

    def do_close(self, dbapi_connection: Any) -> None: ...

    def do_terminate(self, dbapi_connection: Any) -> None: ...


class _LentPostgreSQL(_Lent, PGDialect_asyncpg):
    """JSON is read here, and not by a codec that the connection would keep."""

    supports_statement_cache = True
    supports_native_json_deserialization = False


class _LentMySQL(_Lent, MySQLDialect_asyncmy):
    supports_statement_cache = True


class _LentSQLite(_Lent, SQLiteDialect_pysqlite):
    """It waits for nothing, as all that is in SQLite's transactions."""

    supports_statement_cache = True
    is_async = True


class LentSession(Session):
    """A session that leaves the end of its transaction to the command's."""

    def commit(self) -> None:
        """Raises ChimeraError."""
        raise ChimeraError(_ENDS.format("commit"))

    def rollback(self) -> None:
        """Raises ChimeraError."""
        raise ChimeraError(_ENDS.format("rollback") + ", or raise Rejected(…)")


class Loan:
    """A connection that is lent to SQLAlchemy, until it is given back."""

    def __init__(self, lender: Lender, connection: AsyncConnection) -> None:
        self._lender = lender
        self._connection = connection

    def session(self) -> AsyncSession:
        """A session of its own on the connection."""
        made = AsyncSession(self._connection, sync_session_class=LentSession, expire_on_commit=False)
        event.listen(made.sync_session, "before_commit", _refuse_commit)
        event.listen(made.sync_session, "after_soft_rollback", self._rolled_back)
        return made

    async def give_back(self) -> None:
        """Let go of the connection, which stays as it is."""
        await self._connection.close()

    def _rolled_back(self, session: Session, ended: SessionTransaction) -> None:
        if not ended.nested:
            self._lender.failed(ChimeraError("what SQLAlchemy had done was rolled back: " + _ENDS.format("rollback")))


class Lending:
    """The loans of one database: what SQLAlchemy finds out about it, and the statements that it has compiled."""

    def __init__(self, dialect: str) -> None:
        kind: Any = {"postgresql": _LentPostgreSQL, "mysql": _LentMySQL, "sqlite": _LentSQLite}[dialect]
        self._dialect = kind(dbapi=kind.import_dbapi())
        self._compiled: LRUCache[Any, Any] = LRUCache(500)
        self._is_known = False

    async def lend(self, connection: Any, lender: Lender) -> Loan:
        """Lend a connection that is in a transaction."""
        adapted = _adapted(self._dialect, connection)
        pool = NullPool(lambda: adapted, dialect=self._dialect)
        url, options = make_url(f"{self._dialect.name}://"), {"compiled_cache": self._compiled}
        engine = Engine(pool, self._dialect, url, execution_options=options)
        event.listen(engine, "before_cursor_execute", lambda *_: lender.check())
        event.listen(engine, "handle_error", _teller(lender))
        lent = await AsyncEngine(engine).connect()
        if not self._is_known:
            await lent.run_sync(self._dialect.initialize)
            self._is_known = True
        return Loan(lender, lent)


def _adapted(dialect: Any, connection: Any) -> Any:
    """A driver's connection as SQLAlchemy takes it."""
    if isinstance(dialect, _LentPostgreSQL):
        adapted: Any = AsyncAdapt_asyncpg_connection(dialect.dbapi, connection)  # type: ignore[no-untyped-call]
        adapted.isolation_level = "autocommit"  # asyncpg begins nothing inside a transaction that was begun by hand
        return adapted
    return AsyncAdapt_asyncmy_connection(dialect.dbapi, connection) if isinstance(dialect, _LentMySQL) else connection


def _refuse_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        raise ChimeraError(_ENDS.format("commit"))


def _teller(lender: Lender) -> Callable[[ExceptionContext], None]:
    def tell(context: ExceptionContext) -> None:
        """Inside a savepoint an error is its author's, unless the engine has undone all; else nothing can commit."""
        error = context.original_exception
        if not isinstance(error, Exception):
            return
        meant = lender.meaning(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        connection = context.connection
        if isinstance(meant, ChimeraError) or connection is None or not connection.in_nested_transaction():
            lender.failed(meant)
        if isinstance(meant, ChimeraError):
            raise meant from error

    return tell
