"""Fill SQLAlchemy's tables: `python -m benchmarks.reads.fill_sqlalchemy`."""

import asyncio

from sqlalchemy import insert

from benchmarks.reads.fastapi_sqlalchemy import Base, Clients, Gig, Sales, engine
from benchmarks.reads.gigs import GIGS, SELLERS, clients, gig
from benchmarks.reads.sales import KEYS, sales


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        for start in range(0, KEYS, 500):
            await connection.execute(insert(Sales), [sales(number) for number in range(start, start + 500)])
        shown = [{"seller_id": f"s{number}", "clients": clients(number)} for number in range(SELLERS)]
        await connection.execute(insert(Clients), shown)
        await connection.execute(insert(Gig), [gig(number) for number in range(GIGS)])
    await engine.dispose()


asyncio.run(main())
