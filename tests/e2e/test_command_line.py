"""What an operator types, and what goes wrong when he mistypes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from chimera_faults.fleet import descendants, free_ports
from tests.e2e.conftest import STOPPED_S, Chimera, child_named, wait_until, without_colour

CLUMSY = Path(__file__).parent / "clumsy" / "chimera.toml"
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def clumsy(tmp_path: Path) -> Iterator[Chimera]:
    chimera = Chimera(tmp_path / "state", CLUMSY, {"MENDED": str(tmp_path / "mended")})
    yield chimera
    chimera.end()


def get(chimera: Chimera, path: str) -> Any:
    with urlopen(chimera.base + path, timeout=60) as answer:
        return json.load(answer)


def carry(chimera: Chimera, cup: str, over: str) -> str:
    data = json.dumps({"over": over}).encode()
    request = Request(f"{chimera.base}/cups/{cup}/carry", data, method="POST")
    with urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["command_id"])


def parked(chimera: Chimera) -> dict[str, int]:
    found: dict[str, int] = get(chimera, "/_chimera/clumsy/status")["parked"]
    return found


def is_seen_twice(chimera: Chimera, cup: str) -> bool:
    times: int = get(chimera, f"/cups/{cup}")["times"]
    return times == 2


def orders_are_known(chimera: Chimera) -> bool:
    """Whether whoever consumes the events of orders knows how many there are."""
    consumers = get(chimera, "/_chimera/analytics/status")["consumers"]
    heads = [row["head"] for row in consumers if row["source"] == "orders"]
    return bool(heads) and None not in heads


def given_up(chimera: Chimera) -> str:
    """The list of what is parked, once nothing is tried again by itself any more."""
    listed = without_colour(chimera.run("parked", "list").stdout)
    rows = [[cell.strip() for cell in line.split("│")] for line in listed.splitlines() if "stumbled" in line]
    return listed if rows and all(row[6] == "5" or row[2] == "seen" for row in rows) else ""


WRONG: dict[str, tuple[list[str], dict[str, str], str]] = {
    "a missing file": (["--config", "nowhere.toml", "up"], {}, "nowhere.toml"),
    "an unknown service": (["run", "nobody"], {}, "nobody"),
    "an unknown service to look at": (["parked", "list", "nobody"], {}, "nobody"),
    "an unknown engine": (["up"], {"CHIMERA_LOG": "carrier-pigeon://x"}, "carrier-pigeon"),
    "an engine's address that is wrong": (["up"], {"CHIMERA_STORE": "sqlite:orders"}, "sqlite"),
    "an engine's folder that can't be made": (
        ["up"],
        {"CHIMERA_STORE": "sqlite:////proc/nothing/{service}.db"},
        "/proc",
    ),
    "a port that is no number": (["up"], {"CHIMERA_PORT": "eighty"}, "CHIMERA_PORT"),
    "a port out of range": (["up"], {"CHIMERA_PORT": "70000"}, "CHIMERA_PORT"),
    "a setting that does not exist": (["up"], {"CHIMERA_COLOUR": "blue"}, "CHIMERA_COLOUR"),
    "a setting of a service that does not exist": (["up"], {"CHIMERA_SERVICES__ORDERS__COLOUR": "blue"}, "COLOUR"),
    "a module that does not exist": (["up"], {"CHIMERA_SERVICES__ORDERS__APP": "nowhere:orders"}, "nowhere"),
    "an attribute that does not exist": (
        ["up"],
        {"CHIMERA_SERVICES__ORDERS__APP": "marketplace.types:orders"},
        "orders",
    ),
    "an app without an attribute": (["up"], {"CHIMERA_SERVICES__ORDERS__APP": "marketplace"}, "module:attribute"),
    "something that is no service": (["up"], {"CHIMERA_SERVICES__ORDERS__APP": "marketplace.types:Id"}, "Service"),
    "a mode that does not exist": (["up"], {"CHIMERA_SERVICES__SEARCH__BORROWS__TOP_CLIENTS": "magic"}, "magic"),
    "a host that is not ours": (["up"], {"CHIMERA_HOST": "192.0.2.1"}, "192.0.2.1"),
    "port 0 and processes": (["up", "--processes", "--port", "0"], {}, "port"),
}


WITH_PROCESSES = ("an unknown engine", "an engine's folder that can't be made", "a module that does not exist")


@pytest.mark.parametrize("wrong", [*WRONG, *(f"{wrong}, with processes" for wrong in WITH_PROCESSES)])
def test_a_mistake_is_one_line_and_status_2(chimera: Chimera, wrong: str) -> None:
    arguments, environment, named = WRONG[wrong.removesuffix(", with processes")]
    ran = chimera.run(
        *arguments, *(["--processes"] if wrong.endswith(", with processes") else []), environment=environment
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    assert named in ran.stderr


@pytest.mark.parametrize("arguments", [["up"], ["up", "--processes"], ["run", "orders"]], ids=" ".join)
def test_a_port_in_use_is_one_line_and_status_2(chimera: Chimera, arguments: list[str]) -> None:
    port = chimera.port + (arguments[0] == "run")
    with socket.create_server(("127.0.0.1", port)):
        ran = chimera.run(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    assert str(port) in ran.stderr
    assert "in use" in ran.stderr


def test_a_broken_file_is_one_line_and_status_2(chimera: Chimera, tmp_path: Path) -> None:
    broken = tmp_path / "chimera.toml"
    for text, named in (
        ("services = [", "TOML"),
        ("", "services"),
        ("[services]", "no service"),
        ("[services.a]", "app"),
    ):
        broken.write_text(text)
        ran = chimera.run("--config", str(broken), "up")
        assert ran.returncode == 2
        assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
        assert named in ran.stderr


def test_the_file_may_be_named_by_the_environment(chimera: Chimera, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "chimera", "parked", "list"],
        env={**chimera.environment, "CHIMERA_CONFIG": str(chimera.config), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert "no service has run on" in ran.stderr


def test_port_0_is_any_free_port_and_others_find_it(chimera: Chimera) -> None:
    running = chimera.start("up", "--port", "0")
    base = running.wait_ready()
    port = int(base.rpartition(":")[2])
    assert port > 0
    chimera.port = port
    assert get(chimera, "/search")["results"] == []
    assert wait_until(lambda: orders_are_known(chimera))
    running.stop()


def test_parked_messages_are_listed_shown_retried_and_dropped(clumsy: Chimera, tmp_path: Path) -> None:
    clumsy.up()
    for over in ("command", "view", "reaction"):
        carry(clumsy, f"cup-{over}", over)
        carry(clumsy, f"cup-{over}", "nothing")
    carry(clumsy, "dropped", "command")
    carry(clumsy, "dropped", "nothing")
    wanted = {"commands": 4, "seen": 2, "notice:clumsy": 2}
    assert wait_until(lambda: parked(clumsy) == wanted), parked(clumsy)
    listed = wait_until(lambda: given_up(clumsy))
    assert isinstance(listed, str)
    for words in ("cup-command", "cup-view", "cup-reaction", "stumbled over view", "clumsy.Carry", "notice:clumsy"):
        assert words in listed
    assert clumsy.run("parked", "list", "clumsy").returncode == 0
    shown = without_colour(clumsy.run("parked", "show", "clumsy", "--key", "cup-command").stdout)
    assert "Stumble" in shown
    assert '"over":"command"' in shown
    assert shown.count("clumsy.Carry ") == 2

    still = clumsy.run("parked", "retry", "clumsy", "--consumer", "seen", "--key", "cup-view")
    assert still.returncode == 0
    assert "parked" in still.stdout
    assert parked(clumsy) == wanted

    dropped = clumsy.run("parked", "drop", "clumsy", "--key", "dropped", "--yes")
    assert dropped.returncode == 0, dropped.stderr
    assert "dropped" in dropped.stdout
    assert wait_until(lambda: get(clumsy, "/cups/dropped")["times"] == 1)

    asked = clumsy.run("parked", "drop", "clumsy", "--key", "cup-command")
    assert asked.returncode != 0
    assert "Stumble" in asked.stdout
    assert parked(clumsy)["commands"] == 2

    tried = clumsy.run("parked", "try", "clumsy", "--since", "1h ago", "--json")
    assert [(each["key"], each["result"]) for each in json.loads(tried.stdout) if each["consumer"] == "seen"] == [
        ("cup-view", "failed"),
        ("cup-view", "waits"),
    ]
    (tmp_path / "mended").touch()
    for consumer in ("commands", "seen", "notice:clumsy"):
        ran = clumsy.run("parked", "retry", "clumsy", "--consumer", consumer, "--all")
        assert ran.returncode == 0, ran.stderr
        assert "done" in ran.stdout or "settled" in ran.stdout, ran.stdout
    assert parked(clumsy) == {}
    assert clumsy.run("parked", "list").stdout.strip() == "nothing is parked"
    for over in ("command", "view", "reaction"):
        assert wait_until(partial(is_seen_twice, clumsy, f"cup-{over}"))
    unknown = clumsy.run("parked", "retry", "clumsy", "--consumer", "nobody", "--all")
    assert unknown.returncode == 2
    assert len(unknown.stderr.strip().splitlines()) == 1
    for command in ("retry", "drop"):
        refused = clumsy.run("parked", command, "clumsy", "--consumer", "commands")
        assert (refused.returncode, "say which" in refused.stderr) == (2, True)


def test_a_command_that_is_parked_says_so_to_who_asks(clumsy: Chimera) -> None:
    clumsy.up()
    command = carry(clumsy, "cup", "command")
    state = get(clumsy, f"/_chimera/clumsy/commands/{command}?wait=10")
    assert (state["state"], state["reason"]) == ("parked", "failed")
    assert "stumbled over command" in state["detail"]


def test_a_stop_finishes_what_was_asked_and_holds_no_one(clumsy: Chimera) -> None:
    server = clumsy.up()
    command = carry(clumsy, "cup", "command")
    waiting = http.client.HTTPConnection("127.0.0.1", clumsy.port, timeout=60)
    waiting.request("GET", f"/_chimera/clumsy/commands/{command}?wait=30")
    idle = socket.create_connection(("127.0.0.1", clumsy.port))
    time.sleep(0.2)
    assert server.stop() < STOPPED_S
    answer = waiting.getresponse()
    assert (answer.status, json.load(answer)["state"]) == (200, "pending")
    waiting.close()
    idle.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_supervisor_stops_cleanly_and_says_nothing(clumsy: Chimera, number: int) -> None:
    server = clumsy.up("--processes")
    children = descendants(server.pid)
    assert len(children) == 2
    server.stop(number)
    assert server.output.count("\n") == 1, server.output
    assert not descendants(server.pid)


def test_the_gateway_answers_503_while_a_head_is_away_and_finds_it_again(clumsy: Chimera) -> None:
    server = clumsy.up("--processes")
    get(clumsy, "/cups/a")
    os.kill(child_named(server.pid, "--read"), signal.SIGSTOP)
    os.kill(child_named(server.pid, "--read"), signal.SIGKILL)
    seen: set[tuple[int, str | None]] = set()

    def served() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", clumsy.port, timeout=60)
        connection.request("POST", "/cups/a/carry", b"{}")
        answer = connection.getresponse()
        seen.add((answer.status, answer.headers["content-type"]))
        if answer.status == 503:
            assert answer.headers["retry-after"]
        answer.read()
        connection.close()
        return answer.status == 201

    assert wait_until(served)
    assert seen <= {(201, "application/json"), (503, "application/problem+json")}
    page = urlopen(f"{clumsy.base}/metrics", timeout=60)
    assert b"chimera_accepted_total" in page.read()
    page.close()


def test_each_head_alone_says_how_it_is_and_a_gateway_serves_them_all(clumsy: Chimera) -> None:
    reading, writing = clumsy.start("run", "clumsy", "--read"), clumsy.start("run", "clumsy", "--write")
    base, probed = reading.wait_ready(), writing.wait_ready()
    assert base != probed
    for path in (
        "/_chimera/clumsy/health/live",
        "/_chimera/clumsy/health/ready",
        "/_chimera/clumsy/metrics",
        "/metrics",
    ):
        for where in (base, probed):
            with urlopen(where + path, timeout=60) as answer:
                assert answer.status == 200
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{probed}/cups/a", timeout=60)
    front = clumsy.start("gateway").wait_ready()
    assert front == clumsy.base
    with urlopen(Request(f"{front}/cups/a/carry", b"{}", method="POST"), timeout=60) as answer:
        assert answer.status == 201
    with urlopen(f"{front}/metrics", timeout=60) as answer:
        assert b'chimera_accepted_total{command="clumsy.Carry",process="clumsy read"' in answer.read()
    assert clumsy.run("up", "--workers", "2").returncode == 2


def test_a_write_head_that_dies_takes_its_process_with_it(tmp_path: Path) -> None:
    """A process must not idle on without one of its parts: it says what happened and exits with another status."""
    port = free_ports()
    script = f"""
import sys
from chimera.cli.main import run
from chimera.run.hosting import serve
from chimera.run.settings import read_settings
from chimera.run import write_head
from functools import partial
from pathlib import Path
import asyncio, logging
logging.basicConfig(level=logging.WARNING)

async def dies(self):
    await asyncio.sleep(0.2)
    raise RuntimeError("out of luck")

write_head.WriteHead.run = dies
settings = read_settings(Path({str(CLUMSY)!r}), {{}}, {{"port": {port}, "state": {str(tmp_path)!r}}})
sys.path.insert(0, {str(CLUMSY.parent)!r})
run(serve(settings, ["clumsy"], read=True, write=True, fleet=False, ready=print))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env={"MENDED": ""}
    )
    assert ran.returncode == 1, ran.stderr
    assert "clumsy's write head ended by itself" in ran.stderr
    assert "out of luck" in ran.stderr
