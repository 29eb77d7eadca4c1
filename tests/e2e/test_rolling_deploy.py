"""A rolling deploy of real processes: commands that only the new build knows are sent all the while, none is parked."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from chimera_faults import sweeping
from tests.adapters.services import IN_TURN
from tests.e2e.conftest import Chimera, Running, wait_until
from tests.e2e.stacks import Stack, stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SHOP = """
from typing import Literal
from msgspec import Struct
from chimera import Command, Event, Service, Transaction

shop = Service("shop", partitions=4)

class Place(Command, key="order_id"):
    order_id: str
    kind: Literal["plain"] = "plain"

class Placed(Event, source="shop", key="order_id"):
    order_id: str
    kind: Literal["plain"] = "plain"

class Sale(Struct):
    order_id: str
    kinds: list[str] = []

@shop.handle("POST /orders")
async def place(command: Place, tx: Transaction) -> None:
    tx.emit(Placed(command.order_id, command.kind))

sales = shop.view(Sale, key="order_id", path="/sales/{order_id}")

@sales.on(Placed)
def placed(sale: Sale, event: Placed) -> None:
    sale.kinds.append(event.kind)
"""
NEXT = SHOP.replace('Literal["plain"]', 'Literal["plain", "gift"]').replace(
    "    order_id: str\n    kind", '    order_id: str\n    note: str = ""\n    kind', 1
)
NEXT += """
class Wrap(Command, key="order_id"):
    order_id: str

@shop.handle("POST /wrappings")
async def wrap(command: Wrap, tx: Transaction) -> None:
    tx.emit(Placed(command.order_id, "gift"))
"""


class Deploy:
    """A shop in two builds on one stack: heads of either are started, and stopped in order."""

    def __init__(self, folder: Path, on: Stack) -> None:
        self.builds: dict[str, Chimera] = {}
        for name, text in (("old", SHOP), ("new", NEXT)):
            (folder / name).mkdir()
            (folder / name / "shop.py").write_text(text)
            (folder / name / "chimera.toml").write_text('[services.shop]\napp = "shop:shop"\n')
            self.builds[name] = Chimera(folder / "state", folder / name / "chimera.toml", on.environment)

    def head(self, build: str, kind: str) -> tuple[Running, str]:
        """A head of a build, and its base URL."""
        running = self.builds[build].start("run", "shop", f"--{kind}")
        return running, running.wait_ready()

    def parked(self) -> list[dict[str, Any]]:
        listed = self.builds["new"].run("parked", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        found: list[dict[str, Any]] = json.loads(listed.stdout)
        return found

    def end(self) -> None:
        for build in self.builds.values():
            build.end()


@pytest.fixture(params=["embedded", pytest.param("kafka-postgresql", marks=IN_TURN)])
def deploy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deploy]:
    on = stack(request.param, f"roll{uuid.uuid4().hex[:8]}")
    deploy = Deploy(tmp_path, on)
    yield deploy
    deploy.end()
    asyncio.run(sweeping.take_away(on.name, on.tag, {"shop": 4}))


def ask(url: str, body: dict[str, str] | None = None) -> tuple[int, Any]:
    """The status, and the answer's JSON."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, method="GET" if body is None else "POST"), timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_rolling_deploy_parks_nothing_and_refuses_nothing_for_good(deploy: Deploy) -> None:
    old_writes = [deploy.head("old", "write")[0] for _ in range(2)]
    _, old = deploy.head("old", "read")
    assert ask(f"{old}/orders", {"order_id": "a0"})[0] == 201
    _, new = deploy.head("new", "read")
    assert ask(f"{new}/orders", {"order_id": "a1"})[0] == 201
    for path, body in (("wrappings", {}), ("orders", {"kind": "gift"}), ("orders", {"note": "n"})):
        status, told = ask(f"{new}/{path}", {"order_id": "b", **body})
        assert status == 503
        assert told["detail"].startswith("no write head of shop that runs now can read this shop.")
    assert ask(f"{old}/orders", {"order_id": "b", "note": "n"})[0] == 422
    new_write, _ = deploy.head("new", "write")
    assert wait_until(lambda: ask(f"{new}/wrappings", {"order_id": "c0"})[0] == 201)
    assert wait_until(lambda: ask(f"{old}/orders", {"order_id": "b", "note": "n"})[0] == 503)
    sent = {}
    for number in range(40):
        path, body = ("wrappings", {}) if number % 2 else ("orders", {"kind": "gift", "note": "n"})
        status, answer = ask(f"{new}/{path}", {"order_id": f"c{number + 1}", **body})
        assert status == 201
        sent[f"c{number + 1}"] = answer["command_id"]
        if number in (15, 30):
            old_writes.pop().stop()
    for key, command in sent.items():
        assert wait_until(partial(is_done, new, command)), key
        assert wait_until(partial(is_shown, new, key)), key
    assert deploy.parked() == []
    new_write.stop()


def is_done(base: str, command: str) -> bool:
    return bool(ask(f"{base}/_chimera/shop/commands/{command}")[1]["state"] == "done")


def is_shown(base: str, key: str) -> bool:
    return ask(f"{base}/sales/{key}") == (200, {"order_id": key, "kinds": ["gift"]})
