"""An old and a new build on one stack under load, each with its own version of a command and its event.

`SIDE_BY_SIDE_S=120` lets both run beside each other for two minutes; in everyday runs it is seconds.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chimera_faults import sweeping
from tests.adapters.services import IN_TURN
from tests.e2e.conftest import wait_until
from tests.e2e.stacks import Stack, stack
from tests.e2e.test_rolling_deploy import Deploy, ask
from tests.evolution.texts import FIRST, SECOND

SIDE_S = float(os.environ.get("SIDE_BY_SIDE_S", "6"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + SIDE_S)]
CLIENTS = 4
KEYS = 8


class Versions(Deploy):
    """The shop of before and the one after it."""

    def __init__(self, folder: Path, on: Stack) -> None:
        super().__init__(folder, on)
        for name, text in (("old", FIRST), ("new", SECOND)):
            (folder / name / "shop.py").write_text(text)


class Heads(NamedTuple):
    """The read heads that are asked, by build; one that is gone is asked no more."""

    urls: dict[str, str]


class Client(threading.Thread):
    """Sends orders of its keys to both builds, each in its own form, and reads what comes of them."""

    def __init__(self, number: int, heads: Heads) -> None:
        super().__init__(daemon=True)
        self._number = number
        self._heads = heads
        self._over = threading.Event()
        self.sent: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.commands: list[str] = []
        self.wrong: list[str] = []
        self.refused = 0

    def run(self) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            try:
                self._send(f"k{self._number}-{turn % KEYS}", turn)
                self._look(f"k{self._number}-{(turn * 3) % KEYS}", turn)
            except Exception as error:  # noqa: BLE001 - whatever it is, it has failed
                self.wrong.append(f"{type(error).__name__}: {error}")

    def end(self) -> None:
        self._over.set()
        self.join()

    def _send(self, key: str, turn: int) -> None:
        count = self.sent.get(key, 0) + 1
        while not self._over.is_set():
            build, url = self._pick(turn)
            body: Any = {"order_id": key, "euros": count} if build == "old" else {"order_id": key, "cents": count * 100}
            status, answer = ask(f"{url}/orders", body)
            if status == 201:
                self.sent[key] = count
                self.commands.append(answer["command_id"])
                return
            if status != 503:
                self.wrong.append(f"{build} answered {status} {answer}")
                return
            self.refused += 1
            time.sleep(0.1)

    def _look(self, key: str, turn: int) -> None:
        build, url = self._pick(turn // 2)
        status, answer = ask(f"{url}/sales/{key}")
        if status not in (200, 404):
            self.wrong.append(f"{build} answered {status} {answer} to a read")
            return
        amounts = answer["amounts"] if status == 200 else []
        if amounts != [100 * number for number in range(1, len(amounts) + 1)]:
            self.wrong.append(f"{build} shows {amounts} of {key}")
        if len(amounts) < self.seen.get(key, 0):
            self.wrong.append(f"{build} shows {len(amounts)} orders of {key}, and there were {self.seen[key]}")
        self.seen[key] = max(self.seen.get(key, 0), len(amounts))

    def _pick(self, turn: int) -> tuple[str, str]:
        urls = list(self._heads.urls.items())
        return urls[turn % len(urls)]


@pytest.fixture(
    params=["embedded", *(pytest.param(name, marks=IN_TURN) for name in ("rabbitmq-mysql", "kafka-postgresql"))]
)
def deploy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Versions]:
    on = stack(request.param, f"vers{uuid.uuid4().hex[:8]}")
    deploy = Versions(tmp_path, on)
    yield deploy
    deploy.end()
    asyncio.run(sweeping.take_away(on.name, on.tag, {"shop": 2}))


def test_two_versions_side_by_side_under_load_fail_nothing_and_show_nobody_less(deploy: Versions) -> None:
    old_write, _ = deploy.head("old", "write")
    old_read, old = deploy.head("old", "read")
    heads = Heads({"old": old})
    clients = [Client(number, heads) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(SIDE_S / 6)
    new_write, _ = deploy.head("new", "write")
    _, new = deploy.head("new", "read")
    heads.urls["new"] = new
    time.sleep(SIDE_S)
    del heads.urls["old"]
    time.sleep(0.5)
    for running in (old_read, old_write):
        running.stop()
    time.sleep(SIDE_S / 6)
    for client in clients:
        client.end()
    assert [each for client in clients for each in client.wrong] == []
    sent = {key: count for client in clients for key, count in client.sent.items()}
    assert len(sent) == CLIENTS * KEYS
    for key, count in sent.items():
        assert wait_until(partial(is_shown, new, key, count)), ask(f"{new}/sales/{key}")
    for command in [each for client in clients for each in client.commands]:
        assert ask(f"{new}/_chimera/shop/commands/{command}")[1]["state"] == "done"
    assert deploy.parked() == []
    new_write.stop()


def is_shown(base: str, key: str, count: int) -> bool:
    shown = {"order_id": key, "amounts": [100 * number for number in range(1, count + 1)]}
    return ask(f"{base}/sales/{key}") == (200, shown)
