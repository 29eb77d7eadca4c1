"""Recounts every seller's sales with SQL and compares: `python -m marketplace.check --state DIR --base URL`."""

import asyncio
import sqlite3
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click
import msgspec

_STAGES = ("placed", "paid", "started", "delivered", "completed", "cancelled")
_SHOWN = 10
_AT_ONCE = 16
_BUCKETS = ", ".join(
    (
        "count(*)",
        *(f"count(*) FILTER (WHERE stage = '{stage}')" for stage in _STAGES),
        "coalesce(sum(amount_cents) FILTER (WHERE stage <> 'cancelled'), 0)",
    )
)
_BY_SELLER = f"SELECT seller_id, {_BUCKETS} FROM orders GROUP BY seller_id ORDER BY seller_id"  # noqa: S608 - made of constants
_BY_DAY = (
    f"SELECT seller_id, substr(placed_at, 1, 10) AS day, {_BUCKETS} FROM orders"  # noqa: S608 - made of constants
    " GROUP BY seller_id, day ORDER BY seller_id, day"
)

Expected = dict[str, dict[str, Any]]


class Difference(NamedTuple):
    path: str
    expected: Any
    served: Any


def recount(orders_db: Path) -> tuple[Expected, Expected]:
    """What every seller's dashboard should say: in all, and by day."""
    with closing(sqlite3.connect(f"{orders_db.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        sellers = {row[0]: {"seller_id": row[0], **_buckets(row[1:])} for row in connection.execute(_BY_SELLER)}
        days: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for seller_id, day, *counts in connection.execute(_BY_DAY):
            days[seller_id].append({"day": day, **_buckets(counts)})
    return sellers, {seller_id: {"seller_id": seller_id, "days": listed} for seller_id, listed in days.items()}


def _buckets(counts: Sequence[int]) -> dict[str, Any]:
    orders, *stages, revenue_cents = counts
    return {"orders": orders, "stages": dict(zip(_STAGES, stages, strict=True)), "revenue_cents": revenue_cents}


async def compare(expected: Mapping[str, Any], base: str) -> list[Difference]:
    """Asks for every path and returns the answers that differ from what is expected."""
    paths = iter(expected.items())
    async with aiohttp.ClientSession(headers={"Accept": "application/json"}) as session:
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
def main(base: str, state: Path | None, orders_db: Path | None) -> None:
    """Compare every seller's dashboard with a recount of the orders table."""
    if orders_db is None and state is None:
        raise click.UsageError("say where the orders are: --orders-db FILE or --state DIR")
    database = orders_db or (state or Path()) / "orders.db"
    if not database.is_file():
        raise click.UsageError(f"there is no {database}; name the file with --orders-db")
    sellers, days = recount(database)
    expected = {f"/sellers/{seller_id}/sales": sales for seller_id, sales in sellers.items()}
    expected |= {f"/sellers/{seller_id}/sales?by=day": by_day for seller_id, by_day in days.items()}
    differences = asyncio.run(compare(expected, base.rstrip("/")))
    for difference in differences[:_SHOWN]:
        click.echo(f"{difference.path}\n  recount {difference.expected}\n  served  {difference.served}")
    orders = sum(sales["orders"] for sales in sellers.values())
    click.echo(
        f"compared {len(expected):,} dashboards of {len(sellers):,} sellers with {orders:,} orders: "
        f"{len(differences):,} differ"
    )
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
