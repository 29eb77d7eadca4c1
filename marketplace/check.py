"""Recounts every seller's sales with SQL and compares: `python -m marketplace.check --state DIR --base URL`.

`--store URL` instead of `--state` is for orders that are kept in PostgreSQL or MySQL.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click
import msgspec

from chimera.entities import table_of
from chimera.errors import ChimeraError, SettingsError
from chimera.ports import Store
from chimera.run.engines import open_engine
from chimera_issuer.shell import token_of
from marketplace.orders.model import Order
from marketplace.orders.service import orders

_STAGES = ("placed", "paid", "started", "delivered", "completed", "cancelled")
_SHOWN = 10
_AT_ONCE = 16
_BUCKETS = ", ".join(
    (
        "count(*)",
        *(f"count(CASE WHEN stage = '{stage}' THEN 1 END)" for stage in _STAGES),
        "sum(CASE WHEN stage = 'cancelled' THEN 0 ELSE amount_cents END)",
    )
)
_BY_SELLER = f"SELECT seller_id, {_BUCKETS} FROM orders GROUP BY seller_id ORDER BY seller_id"  # noqa: S608 - made of constants
_BY_DAY = f"SELECT seller_id, {{}} AS day, {_BUCKETS} FROM orders GROUP BY seller_id, day ORDER BY seller_id, day"  # noqa: S608 - made of constants
_DAYS = {
    "sqlite": "substr(placed_at, 1, 10)",
    "postgresql": "to_char(placed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "mysql": "substr(placed_at, 1, 10)",
}
"""The day in UTC. SQLite keeps times as text and MySQL as DATETIME, both in UTC; PostgreSQL as a moment."""

Expected = dict[str, dict[str, Any]]


class Difference(NamedTuple):
    path: str
    expected: Any
    served: Any


async def recount(store: str) -> tuple[Expected, Expected]:
    """What every seller's dashboard should say, in all and by day, by the orders in the store with this URL.

    Raises SettingsError or Unavailable, saying why the orders can't be read.
    """
    engine: Store = open_engine("store", store)
    try:
        await engine.create([table_of(Order)], orders.partitions)
        async with engine.snapshot() as session:
            if session.dialect not in _DAYS:
                raise SettingsError(f"orders are recounted in {', '.join(_DAYS)}; this store takes no such SQL")
            by_seller = await session.execute(_BY_SELLER)
            by_day = await session.execute(_BY_DAY.format(_DAYS[session.dialect]))
    finally:
        await engine.close()
    days: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for seller_id, day, *counts in by_day:
        days[seller_id].append({"day": day, **_buckets(counts)})
    return (
        {seller_id: {"seller_id": seller_id, **_buckets(counts)} for seller_id, *counts in by_seller},
        {seller_id: {"seller_id": seller_id, "days": listed} for seller_id, listed in days.items()},
    )


def _buckets(counts: Sequence[Any]) -> dict[str, Any]:
    placed, *stages, revenue_cents = map(int, counts)  # a sum may come as a Decimal
    return {"orders": placed, "stages": dict(zip(_STAGES, stages, strict=True)), "revenue_cents": revenue_cents}


async def compare(expected: Mapping[str, Any], base: str, who: str = "") -> list[Difference]:
    """Asks for every path and returns the answers that differ from what is expected.

    `who`: whom to log in as at the issuer of `base`, where rules are asked. Raises ChimeraError where that fails.
    """
    paths = iter(expected.items())
    shown = {"Authorization": f"Bearer {await token_of(base, who)}"} if who else {}
    async with aiohttp.ClientSession(headers={"Accept": "application/json", **shown}) as session:
        found = await asyncio.gather(*(_collect(_differences(session, base, paths)) for _ in range(_AT_ONCE)))
    return sorted(difference for part in found for difference in part)


async def _differences(session: aiohttp.ClientSession, base: str, paths: Any) -> AsyncIterator[Difference]:
    for path, wanted in paths:
        async with session.get(base + path) as response:
            body = await response.read()
            served = msgspec.json.decode(body) if response.status == 200 else f"{response.status} {body[:200]!r}"
        if served != wanted:
            yield Difference(path, wanted, served)


async def _collect(differences: AsyncIterator[Difference]) -> list[Difference]:
    return [difference async for difference in differences]


@click.command()
@click.option("--base", required=True, help="Where analytics is, such as http://127.0.0.1:8000")
@click.option("--state", type=click.Path(path_type=Path), help="The directory that holds orders.db.")
@click.option("--orders-db", type=click.Path(path_type=Path), help="The orders' database, if it is elsewhere.")
@click.option("--store", help="The URL of the orders' store, such as postgresql://me:secret@host/shop?schema=orders")
@click.option("--as", "who", default="", help="Whom to log in as at the issuer of --base: an operator.")
def main(base: str, state: Path | None, orders_db: Path | None, store: str | None, who: str) -> None:
    """Compare every seller's dashboard with a recount of the orders table."""
    try:
        sellers, days = asyncio.run(recount(store or _url_of_file(state, orders_db)))
    except ChimeraError as error:
        raise click.ClickException(str(error)) from error
    if not sellers:
        raise click.ClickException("there are no orders in this store; is it the one of the service orders?")
    expected = {f"/sellers/{seller_id}/sales": sales for seller_id, sales in sellers.items()}
    expected |= {f"/sellers/{seller_id}/sales?by=day": by_day for seller_id, by_day in days.items()}
    try:
        differences = asyncio.run(compare(expected, base.rstrip("/"), who))
    except (ChimeraError, aiohttp.ClientError, TimeoutError) as error:
        raise click.ClickException(f"{base}: {error}") from error
    for difference in differences[:_SHOWN]:
        click.echo(f"{difference.path}\n  recount {difference.expected}\n  served  {difference.served}")
    placed = sum(sales["orders"] for sales in sellers.values())
    click.echo(
        f"compared {len(expected):,} dashboards of {len(sellers):,} sellers with {placed:,} orders: "
        f"{len(differences):,} differ"
    )
    sys.exit(1 if differences else 0)


def _url_of_file(state: Path | None, orders_db: Path | None) -> str:
    if orders_db is None and state is None:
        raise click.UsageError("say where the orders are: --store URL, --state DIR or --orders-db FILE")
    database = orders_db or (state or Path()) / "orders.db"
    if not database.is_file():
        raise click.UsageError(f"there is no {database}; name the file with --orders-db, or its store with --store")
    return f"sqlite:///{database.absolute()}"


if __name__ == "__main__":
    main()
