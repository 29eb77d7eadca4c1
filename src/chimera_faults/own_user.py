"""A user of the database whom only one fleet has: what is done to her is done to nobody else on the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from chimera_faults.rig import Run
from chimera_faults.scenario import Strike
from chimera_faults.stacks import Stack, url_of

SOON_S = 0.3
WAIT_S = 5
"""How long the server may wait for what others have open, seconds; it holds them up meanwhile."""


async def make_user(stack: Stack) -> None:
    """Make a user of the stack's database, named like its tag; she may do all that a service needs, and no more."""
    if "postgresql" in stack.name:
        await _on_postgresql(f"CREATE ROLE {stack.tag} LOGIN PASSWORD '{stack.tag}'")
        await _on_postgresql(
            f'GRANT CREATE, CONNECT ON DATABASE "{urlsplit(url_of("postgresql")).path[1:]}" TO {stack.tag}'
        )
    if "mysql" in stack.name:
        await _on_mysql(f"CREATE USER {stack.tag}@'%' IDENTIFIED BY '{stack.tag}'")
        await _on_mysql(f"GRANT ALL ON `{stack.tag}-%`.* TO {stack.tag}@'%'")


async def drop_user(stack: Stack) -> None:
    """Take the user away, once nothing is hers any more."""
    if "postgresql" in stack.name:
        await _on_postgresql(f"DROP OWNED BY {stack.tag}")
        await _on_postgresql(f"DROP ROLE {stack.tag}")
    if "mysql" in stack.name:
        await _on_mysql(f"DROP USER {stack.tag}@'%'")


def refuse_writes(seconds: float) -> Strike:
    """Have the database take no writes of the fleet for a while, as one does that is not the primary any more."""

    async def strike(run: Run) -> None:
        await asyncio.sleep(SOON_S)
        async with _read_only(run.rig.stack):
            await run.until(lambda: _is_refused(run), "a direct command was answered 503 while nothing was written")
            run.struck("the database took no writes")
            await asyncio.sleep(seconds)
        run.notes.append(f"the database took no writes for {seconds:.0f} s")

    return strike


def _is_refused(run: Run) -> bool:
    return any(
        503 in entry.statuses for entry in run.rig.ledger.entries.values() if entry.key.startswith(f"{run.tag}-")
    )


@asynccontextmanager
async def _read_only(stack: Stack) -> AsyncIterator[None]:
    """As long as it lasts, the fleet's user can only read; of other users nobody notices."""
    is_mysql = "mysql" in stack.name
    set_ = _mysql_read_only if is_mysql else lambda on: _postgresql_read_only(stack.tag, on=on)
    await set_(True)
    try:
        yield
    finally:
        await set_(False)


async def _mysql_read_only(on: bool) -> None:
    """The server's own switch: whoever has the privilege READ_ONLY ADMIN, as the services' user has, writes on."""
    await _on_mysql(f"SET SESSION lock_wait_timeout = {WAIT_S}", f"SET GLOBAL read_only = {int(on)}")


async def _postgresql_read_only(user: str, *, on: bool) -> None:
    """New sessions are read-only, and the old ones end, as after a failover."""
    await _on_postgresql(f"ALTER ROLE {user} SET default_transaction_read_only = {'on' if on else 'off'}")
    if on:
        await _on_postgresql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'")  # noqa: S608


async def _on_postgresql(*statements: str) -> None:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(url_of("postgresql"))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _on_mysql(*statements: str) -> None:
    async with mysql_connection() as cursor:
        for statement in statements:
            await cursor.execute(statement)


@asynccontextmanager
async def mysql_connection() -> AsyncIterator[Any]:
    """A cursor on the server, as the services' user."""
    import asyncmy

    server = urlsplit(url_of("mysql"))
    connection = await asyncmy.connect(
        host=server.hostname, port=server.port, user=server.username, password=server.password, autocommit=True
    )
    async with connection, connection.cursor() as cursor:
        yield cursor
