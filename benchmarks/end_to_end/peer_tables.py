"""SQLAlchemy's tables for the peers: orders with an outbox at the owner, and the other service's view."""

import os

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DRIVERS = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy"}


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    order_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    seller_id: Mapped[str] = mapped_column(String(64))
    gig_id: Mapped[str] = mapped_column(String(64))
    amount_cents: Mapped[int] = mapped_column(Integer)
    note: Mapped[str] = mapped_column(String(200))


class Outbox(Base):
    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    data: Mapped[str] = mapped_column(Text)


class Watched(Base):
    __tablename__ = "watched"

    order_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    amount_cents: Mapped[int] = mapped_column(Integer)


def open_sessions() -> tuple[AsyncEngine, async_sessionmaker[AsyncSession]]:
    scheme, _, rest = os.environ["BENCH_URL"].partition(":")
    engine = create_async_engine(f"{DRIVERS[scheme]}:{rest}", pool_size=8, max_overflow=0)
    return engine, async_sessionmaker(engine, expire_on_commit=False)
