"""The application under other people's servers: started, asked, stopped in order, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from chimera_faults.fleet import descendants, free_ports
from tests.e2e.conftest import ROOT, is_alive, wait_until

CONFIG = ROOT / "tests" / "run" / "hosted" / "chimera.toml"
MAIN = f'import chimera\napp = chimera.asgi({str(CONFIG)!r}, heads=("read", "write"))\n'
AT = "127.0.0.1"
SERVERS = {
    "uvicorn": "uvicorn main:app --host {at} --port {port}",
    "two workers of uvicorn": "uvicorn main:app --host {at} --port {port} --workers 2",
    "hypercorn": "hypercorn main:app --bind {at}:{port}",
    "granian": "granian main:app --interface asgi --host {at} --port {port}",
    "gunicorn": "gunicorn main:app --bind {at}:{port} --worker-class uvicorn_worker.UvicornWorker",
}
pytestmark = pytest.mark.timeout(90)


class Server(NamedTuple):
    """A server's process, what it prints, and the folder that it runs in."""

    process: subprocess.Popen[str]
    folder: Path
    base: str

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = MappingProxyType({})) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            answer = urlopen(Request(self.base + path, data, dict(headers), method=method), timeout=60)
        except HTTPError as error:
            answer = error
        with answer:
            return answer.status, answer.headers, answer.read()


def started(folder: Path, name: str, environment: Mapping[str, str] = MappingProxyType({})) -> Server:
    port = free_ports()
    words = SERVERS[name].format(at=AT, port=port).split()
    (folder / "main.py").write_text(MAIN)
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}/src:{ROOT}:{folder}",
                "CHIMERA_STATE": str(folder / "state"),
                "HOME": str(folder),
                **environment,
            },
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    return Server(process, folder, f"http://{AT}:{port}")


@pytest.fixture
def ended() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        left = [server.process.pid, *descendants(server.process.pid)]
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)
        for pid in left[1:]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def answers(server: Server) -> bool:
    try:
        return bool(server.ask("GET", "/_chimera/kiosk/health/live")[0] == 200)
    except (URLError, ConnectionError):
        return server.process.poll() is not None


def leases(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "state" / "kiosk.db")) as store:
        return store.execute("SELECT holder FROM chimera_leases").fetchall()


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_starts_the_services_answers_and_stops_them_in_order(
    name: str, tmp_path: Path, ended: list[Server]
) -> None:
    server = started(tmp_path, name)
    ended.append(server)
    assert wait_until(lambda: answers(server)), server.output
    order = {"order_id": "o 1", "seller_id": "ann", "cents": 5}
    status, headers, body = server.ask("POST", "/orders", order)
    assert (status, headers["location"]) == (201, "/orders/o%201"), server.output
    _, _, told = server.ask("GET", f"/_chimera/kiosk/commands/{json.loads(body)['command_id']}?wait=20")
    after = {"Chimera-After": json.loads(told)["position"]}
    assert json.loads(server.ask("GET", "/sellers/ann/sales", headers=after)[2])["orders"] == 1
    assert json.loads(server.ask("GET", "/sellers/a%2Fb%25/sales")[2])["seller_id"] == "a/b%"
    assert server.ask("HEAD", "/sellers/ann/sales")[::2] == (200, b"")
    assert server.ask("GET", "/pages/ann")[2] == b'["ann sells","fresh"]'
    assert leases(tmp_path)
    os.kill(server.process.pid, signal.SIGTERM)
    server.process.wait(60)
    assert wait_until(lambda: not leases(tmp_path)), server.output
    assert "Traceback" not in server.output


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian", "gunicorn"])
def test_a_server_that_can_not_start_them_ends_and_says_why_in_one_line(
    name: str, tmp_path: Path, ended: list[Server]
) -> None:
    server = started(tmp_path, name, {"CHIMERA_STORE": "pigeon://db/shop"})
    ended.append(server)
    status = server.process.wait(30)
    assert status != 0 or name == "hypercorn"  # which ends with 0, and with a traceback of its own
    assert [line for line in server.output.splitlines() if "no engine is called 'pigeon'" in line], server.output
    assert "Traceback" not in server.output or name == "hypercorn"
