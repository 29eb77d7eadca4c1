"""What the build before this one wrote opens with this one, and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.upgrade.write import HERE, ITEMS, Calls, fleet, lag_is_zero

CHIMERA = str(Path(sys.executable).with_name("chimera"))


def audited(state: Path, base: str) -> Any:
    """What `chimera audit` finds while a fleet runs; it fails this where something differs."""
    environment = {**os.environ, "CHIMERA_STATE": str(state), "CHIMERA_PORT": base.rpartition(":")[2]}
    command = [CHIMERA, "--config", str(HERE / "chimera.toml"), "audit", "--no-repair", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def goes_on(state: Path) -> None:
    """Everything that `write` left is there, and whatever it left to do is done, once."""
    with fleet(CHIMERA, state, "up", "--dev", "--port", "0") as calls:
        calls.until("/_chimera/shop/status", lag_is_zero)
        calls.until("/_chimera/desk/status", lag_is_zero)
        _is_as_it_was_left(calls)
        _remembers_its_commands(calls)
        _does_more(calls)
        reports = audited(state, calls.base)
    differing = {each["mode"]: each["changed"] + each["missing"] + each["invented"] for each in reports}
    assert differing == {"owner": 0, "async": 0}


def _is_as_it_was_left(calls: Calls) -> None:
    for number, item in enumerate(ITEMS):
        page = calls.until(f"/items/{item}", lambda found: found["stocked"] == 3)
        assert page == {"item_id": item, "sold": number + 1020, "tags": ["new"], "stocked": 3, "texts": ["hello"]}
        assert calls.send("GET", f"/items/{item}/sales")[2] == {"item_id": item, "orders": 3, "count": number + 1020}
        value, _, _ = calls.until(f"/desk/{item}", lambda found: found[1] == "fresh")
        assert value == {"item_id": item, "sold": number + 1020, "tags": ["new"]}
    assert calls.send("GET", "/totals/all")[2]["count"] == sum(range(40)) + 40 * 1020 + 14
    status = calls.send("GET", "/_chimera/shop/status")[2]
    assert status["parked"] == {"commands": 2, "sales": 2}
    assert not [row for row in status["consumers"] if "~" in row["consumer"]], "a view is built anew"
    heads = calls.send("GET", "/_chimera/shop/heads")[2]["heads"]
    for partition, head in heads.items():
        page = calls.send("GET", f"/_chimera/shop/journal?partition={partition}&limit=1000")[2]
        assert [event["number"] for event in page["events"]] == list(range(1, head + 1))


def _remembers_its_commands(calls: Calls) -> None:
    before = calls.send("GET", "/items/item-7")[2]
    status, _, accepted = calls.send("POST", "/sales", {"item_id": "item-7", "count": 27}, key="sale-7")
    assert status == 201
    done = calls.until(f"/_chimera/shop/commands/{accepted['command_id']}", lambda found: found["state"] == "done")
    assert done["position"]
    assert calls.send("POST", "/sales", {"item_id": "item-7", "count": 1}, key="sale-7")[0] == 409
    assert calls.send("GET", "/items/item-7")[2] == before


def _does_more(calls: Calls) -> None:
    for number, item in enumerate(ITEMS):
        status, headers, _ = calls.send("PUT", f"/items/{item}/tags", {"tag": "newer"})
        assert status == 200
        assert headers["chimera-position"].startswith("shop/")
        value, _, _ = calls.until(f"/desk/{item}", lambda found: found[0]["tags"] == ["new", "newer"])
        assert value["sold"] == number + 1020


@pytest.mark.timeout(120)
def test_data_and_log_of_the_build_before_open_and_go_on(tmp_path: Path) -> None:
    with tarfile.open(HERE / "written.tar.gz") as written:
        written.extractall(tmp_path, filter="data")
    goes_on(tmp_path)
