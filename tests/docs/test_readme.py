"""The README's code is run as a reader would run it, and answers what the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera_faults.fleet import free_ports

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
CONSOLE = next(body for language, body in BLOCKS if language == "console")


def named_blocks() -> dict[str, str]:
    return {body.partition("\n")[0].removeprefix("# "): body for language, body in BLOCKS if language != "console"}


def exchanges() -> list[tuple[str, str]]:
    """Each curl of the console block with the answer that it is said to give."""
    lines = CONSOLE.strip().splitlines()[2:]
    return [(lines[at].removeprefix("$ "), lines[at + 1]) for at in range(0, len(lines), 2)]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[int]:
    for name in ("shop.py", "chimera.toml"):
        (tmp_path / name).write_text(named_blocks()[name])
    port = free_ports()
    environment = {**os.environ, "CHIMERA_PORT": str(port)}
    command = [sys.executable, "-m", "chimera", "up"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == f"ready http://127.0.0.1:{port}\n"
        yield port
        process.terminate()
        assert process.wait(10) == 0


def test_the_service_of_the_readme_answers_what_the_readme_says(shop: int) -> None:
    last_id = ""
    for command, expected in exchanges():
        runnable = command.replace("127.0.0.1:8000", f"127.0.0.1:{shop}").replace("…", last_id)
        answer = subprocess.run(["bash", "-c", runnable], capture_output=True, text=True, check=True).stdout
        pattern = re.escape(expected).replace("…", r"([0-9a-f-]{36})")
        matched = re.fullmatch(pattern, answer.strip())
        assert matched, f"{command}\nanswered {answer}\nnot      {expected}"
        last_id = matched.group(1) if matched.groups() else last_id


def test_every_python_block_of_the_readme_runs() -> None:
    for name, code in named_blocks().items():
        if name.endswith(".py"):
            exec(compile(code, name, "exec"), {"__name__": name.removesuffix(".py")})


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) < 150


def test_the_console_block_starts_the_service() -> None:
    assert CONSOLE.startswith("$ chimera up\nready http://127.0.0.1:8000\n")
    assert exchanges()
