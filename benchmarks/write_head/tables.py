"""SQLAlchemy's tables, for the peers: the orders, and an outbox of the events, written in one transaction."""

import json
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    order_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    seller_id: Mapped[str] = mapped_column(String(64))
    gig_id: Mapped[str] = mapped_column(String(64))
    amount_cents: Mapped[int] = mapped_column(Integer)
    note: Mapped[str] = mapped_column(String(200))
    changes: Mapped[int] = mapped_column(Integer, default=0)


class Outbox(Base):
    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    data: Mapped[str] = mapped_column(Text)


def apply(found: Order | None, command: dict[str, Any]) -> list[Base]:
    """The rows to add for a command; an order that is there already is changed."""
    event = Outbox(type="OrderPlaced", data=json.dumps(command))
    if found is None:
        return [Order(**command), event]
    found.amount_cents = command["amount_cents"]
    found.note = command["note"]
    found.changes += 1
    return [event]
