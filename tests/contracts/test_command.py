"""`chimera contract`, on a fleet in a folder whose code changes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = """
[services.shop]
app = "shop:shop"

[services.mail]
app = "mail:mail"
"""
SHOP = """
from chimera import Command, Event, Service, Transaction

shop = Service("shop")

class Place(Command, key="order_id"):
    order_id: str

class Placed(Event, source="shop", key="order_id"):
    order_id: str
    note: str = ""
    colour: str = ""

@shop.handle("POST /orders")
async def place(command: Place, tx: Transaction) -> None:
    tx.emit(Placed(command.order_id))
"""
MAIL = """
from chimera import Service, Transaction
from shop import Placed

mail = Service("mail")

@mail.on(Placed, start="beginning")
async def send(event: Placed, tx: Transaction) -> None:
    print(event.order_id, event.note)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    (tmp_path / "chimera.toml").write_text(SETTINGS)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "mail.py").write_text(MAIL)
    return tmp_path


def contract(folder: Path, *words: str, status: int = 0) -> str:
    command = [sys.executable, "-B", "-m", "chimera", "contract", *words]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90)
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_without_a_file_there_is_nothing_that_could_be_well(fleet: Path) -> None:
    assert "type: chimera contract export" in contract(fleet, "check", "--offline", status=1)


def test_a_removed_field_is_refused_with_its_readers_name_and_one_that_nobody_reads_goes(fleet: Path) -> None:
    contract(fleet, "export")
    assert "nobody is broken" in contract(fleet, "check", "--offline")
    written = (fleet / "chimera.contracts.json").read_bytes()
    assert "is as it was" in contract(fleet, "export")
    assert (fleet / "chimera.contracts.json").read_bytes() == written

    (fleet / "shop.py").write_text(SHOP.replace('    note: str = ""\n', ""))
    said = contract(fleet, "check", "--offline", status=1)
    assert "shop.Placed.note" in said
    assert "it breaks mail (reaction send)" in said
    contract(fleet, "export", status=1)
    assert (fleet / "chimera.contracts.json").read_bytes() == written

    (fleet / "shop.py").write_text(SHOP.replace('    colour: str = ""\n', ""))
    assert "is not as the code of shop is; nobody is broken" in contract(fleet, "check", "--offline", status=1)
    contract(fleet, "export")
    found = json.loads(contract(fleet, "check", "--offline", "--json"))
    assert (found["ok"], found["breaks"]) == (True, [])


def test_what_only_clients_can_miss_is_accepted_by_its_place(fleet: Path) -> None:
    contract(fleet, "export")
    (fleet / "shop.py").write_text(SHOP.replace("POST /orders", "PUT /orders"))
    assert "--accept shop.Place" in contract(fleet, "export", status=1)
    assert "nothing is broken there" in contract(fleet, "export", "--accept", "shop.Other", status=2)
    contract(fleet, "export", "--accept", "shop.Place")
    contract(fleet, "check", "--offline")


def test_an_app_that_promises_nothing_is_no_success(fleet: Path) -> None:
    (fleet / "chimera.toml").write_text('[services.shop]\napp = "shop:shop"\n')
    (fleet / "shop.py").write_text('from chimera import Service\n\nshop = Service("shop")\n')
    assert "nothing is promised" in contract(fleet, "export", status=2)
    assert "nothing is promised" in contract(fleet, "check", "--offline", status=2)


def test_a_file_that_is_none_is_said_in_one_line(fleet: Path) -> None:
    (fleet / "chimera.contracts.json").write_text("{")
    assert "can't be read" in contract(fleet, "check", "--offline", status=2)


@pytest.mark.parametrize("config", ["chimera.toml", "examples/conduit/chimera.toml"])
def test_the_contracts_of_the_marketplace_and_of_conduit_are_kept(config: str) -> None:
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "chimera", "--config", config, "contract", "check", "--offline"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - began < 60.0
