"""HTTP load from wrk, which takes a small part of the core that a server in Python needs for the same requests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress

CONNECTIONS = 64

_GET = """
math.randomseed(7)
request = function() return wrk.format("GET", string.format("PATH", math.random(0, LAST))) end
"""
_POST = """
math.randomseed(os.time())
wrk.headers["Content-Type"] = "application/json"
local run, count = string.format("%08x", math.random(0, 2147483647)), 0
local form = '{"order_id":"%s-%d","seller_id":"s%d","gig_id":"g%d","amount_cents":%d,"note":"As soon as you can."}'
request = function()
  count = count + 1
  local seller = math.random(0, 4999)
  return wrk.format("POST", "PATH", nil, string.format(form, run, count, seller, seller, math.random(100, 99999)))
end
"""


def install() -> None:
    """Make sure that wrk is there. Raises RuntimeError where it isn't and can't be installed."""
    if shutil.which("wrk") is None:
        if os.geteuid() != 0:
            raise RuntimeError("wrk is needed; run: sudo apt-get install wrk")
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "wrk"]):
            subprocess.run(["apt-get", "--quiet", *command], check=True, stdout=subprocess.DEVNULL)  # noqa: S603, S607


def get(base: str, path: str, keys: int, seconds: float) -> float:
    """Answered GETs a second, of `path` with its `%d` filled in by a key's number, at random."""
    return run(base, _GET.replace("PATH", path).replace("LAST", str(keys - 1)), seconds)


def post(base: str, path: str, seconds: float, rate: float = 0.0) -> float:
    """Orders a second that were answered with 201; each has an id of its own. Not faster than `rate`, if given."""
    pause = f"delay = function() return {CONNECTIONS * 1000 / rate:.0f} end\n" if rate else ""
    return run(base, _POST.replace("PATH", path) + pause, seconds)


def warm_up(load: Callable[[], float]) -> None:
    """Load for the sake of what is only done at first, such as connecting; what goes wrong will be seen later."""
    with suppress(RuntimeError):
        load()


def run(base: str, script: str, seconds: float) -> float:
    """Requests a second that were answered as they should be. Raises RuntimeError when some were not."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        how = ["-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
        command = ["wrk", *how, "-s", file.name, base]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"not every request was answered with 2xx: {said}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if found is None or float(found[1]) == 0:
        raise RuntimeError(f"nothing was answered: {said}")
    return float(found[1])
