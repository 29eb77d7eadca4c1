"""`eventsourcing`: a Projection into a materialised view of its own, an event at a time, by its ProjectionRunner.

`python -m benchmarks.projection.with_eventsourcing COUNT`. Prints the events per second.
"""

from __future__ import annotations

import os
import sys
import time
from abc import abstractmethod
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking, TrackingRecorder
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL

from benchmarks.projection.events import events

WORDS = ("placed", "approved", "shipped", "delivered", "canceled")


class Seller(Aggregate):
    """Each of its five kinds of events is something that happened to one of a seller's orders."""

    @event("Registered")
    def __init__(self, name: str) -> None:
        self.name = name

    @staticmethod
    def create_id(name: str) -> UUID:
        return uuid5(NAMESPACE_URL, name)

    @event("OrderPlaced")
    def placed(self, amount_cents: int) -> None:
        pass

    @event("OrderApproved")
    def approved(self, amount_cents: int) -> None:
        pass

    @event("OrderShipped")
    def shipped(self, amount_cents: int) -> None:
        pass

    @event("OrderDelivered")
    def delivered(self, amount_cents: int) -> None:
        pass

    @event("OrderCanceled")
    def canceled(self, amount_cents: int) -> None:
        pass


class Sellers(Application):
    pass


class SalesView(TrackingRecorder):
    @abstractmethod
    def count(self, seller_id: UUID, word: str, worth: int, tracking: Tracking) -> None:
        """Count an event, and track it, in one transaction."""


class PostgresSalesView(PostgresTrackingRecorder, SalesView):
    def __init__(self, datastore: PostgresDatastore, **kwargs: Any) -> None:
        super().__init__(datastore, **kwargs)
        columns = ", ".join(f"{word} integer DEFAULT 0" for word in WORDS)
        self.sql_create_statements.append(
            SQL(f"CREATE TABLE IF NOT EXISTS sales (seller_id uuid PRIMARY KEY, revenue_cents integer, {columns})")  # type: ignore[arg-type]
        )

    def count(self, seller_id: UUID, word: str, worth: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                f"INSERT INTO sales (seller_id, revenue_cents, {word}) VALUES (%s, %s, 1) ON CONFLICT (seller_id)"  # noqa: S608
                " DO UPDATE SET revenue_cents = sales.revenue_cents + excluded.revenue_cents,"
                f" {word} = sales.{word} + 1",
                (seller_id, worth),
                prepare=True,
            )


class SalesProjection(Projection[SalesView]):
    name = "sales"

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        word = type(domain_event).__name__.removeprefix("Order").lower()
        if word in WORDS:
            amount = domain_event.amount_cents
            worth = {"placed": amount, "canceled": -amount}.get(word, 0)
            self.view.count(domain_event.originator_id, word, worth, tracking)


def main(count: int) -> None:
    at = urlsplit(os.environ["BENCH_URL"])
    env = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": at.path.strip("/"),
        "POSTGRES_HOST": at.hostname or "",
        "POSTGRES_PORT": str(at.port),
        "POSTGRES_USER": at.username or "",
        "POSTGRES_PASSWORD": at.password or "",
    }
    last = _fill(Sellers(env), count)
    began = time.perf_counter()
    with ProjectionRunner(
        application_class=Sellers, projection_class=SalesProjection, view_class=PostgresSalesView, env=env
    ) as runner:
        runner.wait(last, timeout=300)
        spent = time.perf_counter() - began
    print(count / spent)


def _fill(app: Sellers, count: int) -> int:
    """Save the events; returns the last one's notification id."""
    by_seller: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for each in events(count):
        by_seller[each.seller_id].append((each.type.removeprefix("Order").lower(), each.amount_cents))
    for name, happened in by_seller.items():
        seller = Seller(name)
        for word, amount in happened:
            getattr(seller, word)(amount)
        recordings = app.save(seller)
    return int(recordings[-1].notification.id)


if __name__ == "__main__":
    main(int(sys.argv[1]))
