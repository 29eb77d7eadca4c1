"""SIGTERM under load: everything that was accepted is answered and done, and others take over at once."""

import json
import sqlite3
import threading
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import STOPPED_S, Chimera, Running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SENDERS = 8


class Load:
    """Orders, each posted once over connections that stay open, until the service is gone."""

    def __init__(self, base: str) -> None:
        self.base = urlsplit(base)
        self.answered: set[str] = set()
        self.failed: list[int] = []
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self, sender: int) -> None:
        with closing(HTTPConnection(str(self.base.hostname), self.base.port, timeout=60)) as connection:
            for number in range(100_000):
                if (status := self._post(connection, f"{sender}-{number}")) is None:
                    return
                if status != 201:
                    self.failed.append(status)
        raise AssertionError("the service was never stopped")

    def _post(self, connection: HTTPConnection, order: str) -> int | None:
        """The answer's status, or None when the service is gone."""
        body = {"order_id": order, "buyer_id": "b", "seller_id": "s", "gig_id": "g", "amount_cents": 1}
        try:
            connection.request("POST", "/orders", json.dumps(body))
            with connection.getresponse() as answer:
                answer.read()
        except (OSError, HTTPException):
            return None
        if answer.status == 201:
            self.answered.add(order)
        return answer.status

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def orders_in(chimera: Chimera) -> set[str]:
    return found(chimera, "SELECT order_id FROM orders")


def holders_in(chimera: Chimera) -> set[str]:
    return found(chimera, "SELECT holder FROM chimera_leases")


def found(chimera: Chimera, sql: str) -> set[str]:
    with closing(sqlite3.connect(chimera.state / "orders.db")) as store:
        return {each for (each,) in store.execute(sql)}


def held(base: str) -> float:
    with urlopen(f"{base}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [each for family in families for each in family.samples if each.name == "chimera_partitions_held"]
    return sum(each.value for each in samples)


def test_what_was_accepted_is_answered_and_done_and_nothing_else_is_kept(chimera: Chimera) -> None:
    server = chimera.up()
    load = Load(chimera.base)
    assert wait_until(lambda: len(load.answered) > 300)
    took = server.stop()
    load.join()
    assert took < STOPPED_S
    assert not load.failed
    chimera.up()
    assert wait_until(lambda: orders_in(chimera) >= load.answered)
    assert orders_in(chimera) == load.answered


def test_another_worker_has_everything_at_its_next_look_after_one_was_stopped(chimera: Chimera) -> None:
    reading = chimera.start("run", "orders", "--read")
    base = reading.wait_ready()
    workers: list[Running] = [chimera.start("run", "orders", "--write") for _ in range(2)]
    bases = [worker.wait_ready() for worker in workers]
    assert wait_until(lambda: [held(each) for each in bases] == [4, 4])
    load = Load(base)
    assert wait_until(lambda: len(load.answered) > 200)
    assert workers[0].stop() < STOPPED_S
    assert not [holder for holder in holders_in(chimera) if f"-{workers[0].pid}-" in holder]
    assert wait_until(lambda: held(bases[1]) == 8)
    answered = set(load.answered)
    assert wait_until(lambda: orders_in(chimera) >= answered)
    reading.stop()
    load.join()
    assert wait_until(lambda: orders_in(chimera) == load.answered)
