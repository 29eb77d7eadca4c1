"""Each example is followed as a reader would: its files written, its commands typed, what they print compared."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from chimera_faults.fleet import descendants, free_ports
from tests.e2e.conftest import is_alive, wait_until

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"\b800(\d)\b")
PATIENCE_S = 240
"""A page may have hundreds of simulations run, on a machine that has other things to do."""
DONE = "-- done --"


class Step(NamedTuple):
    """A command of a console block and the lines that it is said to print."""

    command: str
    printed: str


def steps(console: str) -> list[Step]:
    found = [part.partition("\n") for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]]
    return [Step(command, printed) for command, _, printed in found]


def pattern(printed: str) -> str:
    """A regular expression in which `…` stands for something within a line."""
    return re.escape(printed).replace("…", r"[^\n]+?")


class Shell:
    """A shell in which commands are typed one after the other."""

    def __init__(self, folder: Path, port: int) -> None:
        here = str(Path(sys.executable).parent)
        self._process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env={**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "CHIMERA_PORT": str(port)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._printed: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._printed.extend(iter(self._process.stdout.readline, ""))

    def type(self, step: Step) -> None:
        """Run a command; fails unless it ends, and prints what the page says."""
        assert self._process.stdin is not None
        self._printed.clear()
        self._process.stdin.write(f"{step.command}\necho '{DONE}'\n")
        self._process.stdin.flush()
        expected = re.compile(pattern(step.printed.strip()))
        ended = wait_until(lambda: self._is_done() and expected.fullmatch(self._shown()), PATIENCE_S)
        assert ended, f"$ {step.command}\nprinted\n{self._shown()}\nnot\n{step.printed}"

    def _is_done(self) -> bool:
        return any(DONE in line for line in self._printed)

    def _shown(self) -> str:
        lines = "".join(line for line in self._printed if not is_about_a_job(line) and not is_about_who_may(line))
        return lines.replace(f"{DONE}\n", "").strip()

    def end(self) -> None:
        for pid in [*descendants(self._process.pid), self._process.pid]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        self._reading.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def is_about_a_job(line: str) -> bool:
    """What bash says by itself about a process that was killed."""
    return re.fullmatch(r"bash: line \d+: +\d+ (Killed|Terminated) .*\n", line) is not None


def is_about_who_may(line: str) -> bool:
    """What each start says of who may reach it, with the time."""
    return " WARNING who may: " in line


@pytest.fixture
def port() -> int:
    return free_ports(8)


@pytest.fixture
def shell(tmp_path: Path, port: int) -> Iterator[Shell]:
    shell = Shell(tmp_path, port)
    yield shell
    shell.end()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_does_what_it_says(example: Path, tmp_path: Path, port: int, shell: Shell) -> None:
    page = PORT.sub(lambda found: str(port + int(found[1])), example.read_text())
    for language, block in BLOCK.findall(page):
        if language != "console":
            (tmp_path / block.partition("\n")[0].removeprefix("# ")).write_text(block)
            continue
        for step in steps(block):
            shell.type(step)


def test_there_are_examples() -> None:
    assert EXAMPLES


def test_what_is_printed_is_compared_line_by_line_and_dots_stand_for_what_varies() -> None:
    assert re.fullmatch(pattern("slowest: … ms\n"), "slowest: 12 ms\n")
    assert not re.fullmatch(pattern("slowest: … ms\n"), "slowest: 12 ms\nand more\n")
    assert not re.fullmatch(pattern("0.10 calls\n"), "0x10 calls\n")
    assert steps("$ one\n$ two\nits output\n") == [Step("one", ""), Step("two", "its output\n")]
