"""A load at a constant rate: pages are asked for when they are due, whether earlier ones were answered or not.

Each page's latency counts from when it was due, so that a page that had to wait for its turn is not left out
(no "coordinated omission", as Gil Tene calls it).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from chimera.web.wire.http import ASGIApp, Event, Scope
from chimera_compare.figures import Answer
from chimera_compare.plan import LoadPlan

PATIENCE_S = 10.0


async def load(site: ASGIApp, plan: LoadPlan, start: float) -> list[Answer]:
    """Ask for `reads` pages a second from `start` on, each of a random key; returns all answers in the order asked."""
    rng = random.Random(f"{plan.seed} pages")  # noqa: S311 - a load
    keys = plan.page_keys()
    asked: list[asyncio.Task[Answer]] = []
    for number in range(int(plan.reads * plan.seconds)):
        due = start + number / plan.reads
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        asked.append(asyncio.ensure_future(_ask(site, rng.choice(keys), due)))
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*asked)


async def ask(site: ASGIApp, path: str) -> tuple[int, bytes]:
    """The status and the body of a GET, asked in this process."""
    status, body = 0, b""

    async def receive() -> Event:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Event) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    await site(_scope(path), receive, send)
    return status, body


async def _ask(site: ASGIApp, key: str, due: float) -> Answer:
    status, body = await ask(site, f"/pages/{key}")
    return Answer(key, due, time.monotonic(), status, body)


def _scope(path: str) -> Scope:
    headers: Sequence[tuple[bytes, bytes]] = [(b"accept", b"application/json")]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
    }
