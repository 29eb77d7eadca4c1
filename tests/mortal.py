"""A write head in a process of its own that ends at a message, or stands still there: `mortal.py FOLDER WHERE WHAT`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from chimera.core.timing import Retry
from chimera.run.write_head import WriteHead
from chimera.testing.engines import sqlite_engines
from tests.support import AT_ONCE, QUICK, Bank, make_context

TIMING = msgspec.structs.replace(
    QUICK, restart_first_s=0.01, restart_longest_s=0.01, redrive_s=0.01, keep_s=0.01, lease_s=0.2, audit_s=0.0
)
ENDS = 3
ENDED = 9


class Deadly:
    """Ends the process when it is asked about a key that begins with `poison`."""

    def __contains__(self, key: str) -> bool:
        if key.startswith("poison"):
            os._exit(ENDED)
        return False


class Slow:
    """Stands still when it is asked about a key that begins with `slow`, until the file `go` is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, key: str) -> bool:
        if key.startswith("slow"):
            (self._folder / f"begun-{os.getpid()}-{key}").touch()
            while not (self._folder / "go").exists():
                time.sleep(0.005)
            (self._folder / "go").unlink()
        return False


async def main(folder: Path, where: str, what: str) -> None:
    bank, trouble = Bank(), Slow(folder) if what == "slow" else Deadly()
    switches: dict[str, Any] = vars(bank)
    switches[where] = trouble
    retry = Retry(AT_ONCE.tries, AT_ONCE.first_s, AT_ONCE.longest_s, ENDS)
    context = make_context(bank.service, sqlite_engines(folder), timing=TIMING, retry=retry)
    await context.prepare()
    head = WriteHead(context, str(os.getpid()))
    working = asyncio.ensure_future(head.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    (folder / f"ready-{os.getpid()}").touch()
    await asyncio.wait([working])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
