"""Writes data with the `chimera` of any build, by its public ways alone: `python write.py CHIMERA FOLDER`.

The fixture `written.tar.gz` was made so by the build before this one; make it again when a release has landed:
`python tests/upgrade/write.py .venv/bin/chimera /tmp/written && tar czf tests/upgrade/written.tar.gz -C /tmp/written .`
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

HERE = Path(__file__).parent
ITEMS = [f"item-{number}" for number in range(40)]


class Calls:
    """Requests to a fleet that runs."""

    def __init__(self, base: str) -> None:
        self.base = base

    def send(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, dict[str, str], Any]:
        """The status, headers and JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method)
        if key:
            request.add_header("Idempotency-Key", key)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read() or b"null")
        except HTTPError as error:
            return error.code, dict(error.headers), json.loads(error.read() or b"null")

    def until(self, path: str, wanted: Any) -> Any:
        """Ask until the answer is as wanted."""
        until = time.monotonic() + 60
        while True:
            status, _, found = self.send("GET", path)
            if status == 200 and wanted(found):
                return found
            if time.monotonic() > until:
                raise AssertionError(f"{path} never came true; it is {status} {found}")
            time.sleep(0.05)


@contextmanager
def fleet(chimera: str, state: Path, *arguments: str) -> Iterator[Calls]:
    """A `chimera` command with this state, until the block ends; then it is stopped in order."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [chimera, "--config", str(HERE / "chimera.toml"), *arguments]
    environment["CHIMERA_STATE"] = str(state)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("ready "), ready
            yield Calls(ready.split()[1])
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait(30)


def lag_is_zero(status: dict[str, Any]) -> bool:
    """Whether every consumer of a service has all there is."""
    return all(row["lag"] == 0 for row in status["consumers"])


def write(chimera: str, state: Path) -> None:
    """Some of everything: executed, refused, parked, shared, borrowed, and commands that nobody has executed yet."""
    with fleet(chimera, state, "up", "--dev", "--port", "0") as calls:
        for number, item in enumerate(ITEMS):
            assert calls.send("POST", "/sales", {"item_id": item, "count": number + 20}, key=f"sale-{number}")[0] == 201
            assert calls.send("POST", "/talks", {"item_id": item, "text": "hello"})[0] == 201
            assert calls.send("PUT", f"/items/{item}/tags", {"tag": "new"})[0] == 200
        calls.send("POST", "/sales", {"item_id": "item-0", "count": -1})
        calls.send("POST", "/sales", {"item_id": "unlucky", "count": 13})
        calls.send("POST", "/sales", {"item_id": "unlucky", "count": 1})
        calls.send("POST", "/sales", {"item_id": "devil", "count": 666})
        calls.send("POST", "/sales", {"item_id": "devil", "count": 2})
        calls.until("/_chimera/shop/status", lambda status: status["parked"].get("commands") == 2)
        calls.until("/_chimera/shop/status", lag_is_zero)
        calls.until("/_chimera/desk/status", lag_is_zero)
    with fleet(chimera, state, "run", "shop", "--read", "--port", "0") as calls:
        for item in ITEMS:
            assert calls.send("POST", "/sales", {"item_id": item, "count": 1000}, key=f"left-{item}")[0] == 201


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
