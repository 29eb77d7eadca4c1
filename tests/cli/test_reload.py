"""Services that are started again when they are saved, and what is told of a file that can't be read."""

from __future__ import annotations

import http.client
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from chimera.cli.main import main
from chimera.cli.reload import what_is_broken
from chimera_faults.fleet import descendants, free_ports
from chimera_new.project import new_project
from tests.e2e.conftest import ROOT, Running, wait_until

pytestmark = pytest.mark.timeout(90)


class Reloaded:
    """A new project that runs with --reload."""

    def __init__(self, folder: Path) -> None:
        new_project(folder)
        self.port = free_ports()
        self.code = folder / "shop.py"
        self.folder = folder
        self.running: Running | None = None

    def start(self) -> Running:
        words = ["chimera", "up", "--reload", "--port", str(self.port), "--state", str(self.folder / "state")]
        self.running = Running(words, {"PYTHONPATH": f"{ROOT}/src"}, self.folder)
        return self.running

    def save(self, old: str, new: str) -> None:
        self.code.write_text(self.code.read_text().replace(old, new))

    def said(self, words: str, times: int = 1) -> bool:
        assert self.running is not None
        running = self.running
        return bool(wait_until(lambda: running.output.count(words) >= times))

    def status(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Reloaded]:
    reloaded = Reloaded(tmp_path / "shop")
    yield reloaded
    if reloaded.running is not None:
        reloaded.running.end()


def test_what_is_saved_is_served_and_a_syntax_error_waits_for_the_next_save(shop: Reloaded) -> None:
    running = shop.start()
    running.wait_ready()
    assert shop.status("/sellers/ann/sales") == 200
    shop.save("/sellers/", "/merchants/")
    assert shop.said("shop.py changed; starting again"), running.output
    assert shop.said("ready ", 2), running.output
    assert (shop.status("/merchants/ann/sales"), shop.status("/sellers/ann/sales")) == (200, 404)
    shop.save("sale.orders += 1", "sale.orders += = 1")
    assert shop.said("chimera: shop.py:40: invalid syntax; waiting for the next save"), running.output
    assert shop.status("/merchants/ann/sales") == 200
    shop.save("sale.orders += = 1", "sale.orders += 2")
    assert shop.said("ready ", 3), running.output
    running.stop()
    assert "Traceback" not in running.output
    assert descendants(running.pid) == []


def test_a_mistake_at_the_start_is_told_and_the_next_save_mends_it(shop: Reloaded) -> None:
    shop.save('Service("shop")', 'Sevice("shop")')
    running = shop.start()
    assert shop.said("NameError: name 'Sevice' is not defined"), running.output
    assert shop.said("it ended with status 2; waiting for the next save"), running.output
    shop.save("Sevice", "Service")
    assert shop.said("ready "), running.output
    running.stop(signal.SIGINT)


def test_without_the_library_one_line_says_what_to_type(shop: Reloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    ran = CliRunner().invoke(main, ["--config", str(shop.folder / "chimera.toml"), "up", "--reload"])
    assert (ran.exit_code, ran.stderr) == (
        2,
        "chimera: --reload needs watchfiles, which is not installed; type: pip install 'chimera-kit[reload]'\n",
    )


def test_a_file_of_settings_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "chimera.toml").write_text("[services\n")
    (tmp_path / "fine.py").write_text("x = 1\n")
    told = what_is_broken([tmp_path / "gone.py", tmp_path / "fine.py", tmp_path / "chimera.toml"])
    assert told.startswith("chimera.toml: ")
