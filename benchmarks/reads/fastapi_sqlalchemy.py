"""FastAPI with SQLAlchemy's asynchronous ORM: a session per request, rows as objects, a response model."""

import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String, event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy"}


class Base(DeclarativeBase):
    pass


class Sales(Base):
    __tablename__ = "sales"

    seller_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    country: Mapped[str] = mapped_column(String(2))
    orders: Mapped[int] = mapped_column(Integer)
    revenue_cents: Mapped[int] = mapped_column(BigInteger)
    counts: Mapped[dict[str, int]] = mapped_column(JSON)
    by_day: Mapped[dict[str, int]] = mapped_column(JSON)
    updated_at: Mapped[str] = mapped_column(String(40))


class Clients(Base):
    """The copy of a seller's top clients."""

    __tablename__ = "clients"

    seller_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    clients: Mapped[list[dict[str, Any]]] = mapped_column(JSON)


class Gig(Base):
    __tablename__ = "gigs"

    gig_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    seller_id: Mapped[str] = mapped_column(ForeignKey("clients.seller_id"))
    title: Mapped[str] = mapped_column(String(200))
    category: Mapped[str] = mapped_column(String(100))
    price_cents: Mapped[int] = mapped_column(Integer)
    top_clients: Mapped[Clients] = relationship()


class SalesOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    seller_id: str
    name: str
    country: str
    orders: int
    revenue_cents: int
    counts: dict[str, int]
    by_day: dict[str, int]
    updated_at: str


class ClientOut(BaseModel):
    client_id: str
    name: str
    industry: str | None = None


class ClientsOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    clients: list[ClientOut]


class GigOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    gig_id: str
    seller_id: str
    title: str
    category: str
    price_cents: int
    top_clients: ClientsOut


def open_engine(url: str) -> Any:
    scheme, _, rest = url.partition(":")
    engine = create_async_engine(f"{DRIVERS[scheme]}:{rest}", pool_size=8, max_overflow=0)
    if scheme == "sqlite":
        event.listen(engine.sync_engine, "connect", _as_durable_as_the_others)
    return engine


def _as_durable_as_the_others(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


engine = open_engine(os.environ["BENCH_URL"])
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


@app.get("/sellers/{seller_id}/sales", response_model=SalesOut)
async def sales(seller_id: str, session: Session) -> Sales:
    found = await session.get(Sales, seller_id)
    if found is None:
        raise HTTPException(404)
    return found


@app.get("/gigs/{gig_id}", response_model=GigOut)
async def gig(gig_id: str, session: Session) -> Gig:
    found = await session.get(Gig, gig_id, options=[joinedload(Gig.top_clients)])
    if found is None:
        raise HTTPException(404)
    return found
