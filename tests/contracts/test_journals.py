"""A fleet that has run, and runs: what is stored is read by the code as it is now, and what runs is asked."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contracts.test_command import MAIL, SHOP, contract
from tests.contracts.test_command import fleet as fleet

SHARING = """
from msgspec import Struct
from chimera import Reads

class Card(Struct):
    order_id: str

@shop.share("cards", key="order_id", changed_by=[Placed])
async def cards(order_ids: list[str], read: Reads) -> dict[str, Card]:
    return {order_id: Card(order_id) for order_id in order_ids}
"""
BORROWING = """
from msgspec import Struct

class Known(Struct):
    order_id: str

mail.borrow("cards", Known, owner="shop")
"""


@contextmanager
def up(folder: Path) -> Iterator[str]:
    """The fleet, and an order in its journal."""
    command = [sys.executable, "-B", "-m", "chimera", "up", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready ")
        where = line.removeprefix("ready ").strip()
        ask = urllib.request.Request(f"{where}/orders", data=b'{"order_id": "o1"}', method="POST")
        with urllib.request.urlopen(ask, timeout=60) as answer:
            location = json.loads(answer.read())["command_id"]
        with urllib.request.urlopen(f"{where}/_chimera/shop/commands/{location}?wait=10", timeout=60) as answer:
            assert json.loads(answer.read())["state"] == "done"
        yield where
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_what_is_stored_and_what_runs_are_asked(fleet: Path) -> None:
    (fleet / "shop.py").write_text(SHOP + SHARING)
    (fleet / "mail.py").write_text(MAIL + BORROWING)
    contract(fleet, "export")
    said = contract(fleet, "can-deploy", "shop", status=1)
    assert "mail can't be asked, and reads what shop writes (shop has never run here; mail has never run here)" in said
    contract(fleet, "can-deploy", "shop", "--first")

    with up(fleet):
        assert "mail may be deployed" in contract(fleet, "can-deploy", "mail")
        assert "shop may be deployed: 1 build of 1 services asked" in contract(fleet, "can-deploy", "shop")
        assert "2 stored events" in contract(fleet, "check")

        (fleet / "shop.py").write_text(SHOP.replace('note: str = ""', "note: int = 0") + SHARING)
        found = json.loads(contract(fleet, "can-deploy", "shop", "--json", status=1))
        assert {(each["place"], each["consumer"]) for each in found["against"]} == {("shop.Placed.note", "mail")}

        (fleet / "shop.py").write_text(SHOP + SHARING.replace("    order_id: str", "    number: str"))
        said = contract(fleet, "can-deploy", "shop", status=1)
        assert "shop/cards.order_id: is needed and not there, by what runs — it breaks mail (borrow)" in said

        (fleet / "shop.py").write_text(SHOP.replace('    note: str = ""', "    note: str\n    added: str") + SHARING)
        said = contract(fleet, "check", status=1)
        assert "shop.Placed: can't be read at shop/" in said
        assert "missing required field `added` — it breaks mail (reaction send)" in said
        assert "missing required field `added`" in contract(fleet, "can-deploy", "mail", status=1)
    (fleet / "shop.py").write_text(SHOP + SHARING)
    assert "nobody runs who reads what shop writes (mail)" in contract(fleet, "can-deploy", "shop", status=1)
    assert "mail reads what shop writes, and does not run" in contract(fleet, "can-deploy", "shop", "--first")
