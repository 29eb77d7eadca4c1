"""Writes a state folder by three builds of the shop, one after another: `python -m tests.evolution.writing FOLDER`.

The fixture was made so: `tar czf tests/evolution/written.tar.gz -C FOLDER .` It is what earlier builds of a service
leave behind, so it is not made again when something has changed.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import Any

import msgspec

from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.context import Context
from chimera.messages import Message, partition_of
from chimera.run.write_head import WriteHead
from chimera.testing.engines import sqlite_engines
from chimera.testing.waiting import running
from chimera.upkeep.admission.naming import admit
from tests.builds import build, forget_all
from tests.evolution.texts import FIRST, SECOND, THIRD
from tests.support import TIME, opened
from tests.upkeep.test_naming import caught_up
from tests.views.test_rebuild import TIMING

HERE = str(Path(__file__).parents[2]).encode()
"""Where this code is, as it stands in tracebacks; that is nobody's to know."""
BAD = """
    if event.order_id == "bad":
        raise ValueError("not today")
"""
FAILING = FIRST.replace(
    "    mail = await tx.load(Mail, event.order_id)", f"{BAD}    mail = await tx.load(Mail, event.order_id)"
)
FAILING = FAILING.replace("    sale.amounts.append(amount(event))", f"{BAD}    sale.amounts.append(amount(event))")
BODIES: tuple[tuple[str, list[dict[str, Any]]], ...] = (
    (
        FAILING,
        [{"order_id": f"a{number}", "euros": number} for number in range(20)] + [{"order_id": "bad", "euros": 6}],
    ),
    (SECOND, [{"order_id": f"b{number}", "cents": number * 7} for number in range(20)]),
    (THIRD, [{"order_id": f"c{number}", "lines": [number, 3], "customer": f"u{number}"} for number in range(20)]),
)
"""Each build, and the orders that it takes; each also adds to those of the builds before it."""
_ids = itertools.count(1)


def bodies_of(stage: int) -> list[dict[str, Any]]:
    """All that a build takes: its own orders, and one more for each of some of those before."""
    _, own = BODIES[stage]
    more = [{**own[number], "order_id": f"{letter}{number}"} for letter in "ab"[:stage] for number in range(5)]
    return own + more


def commands(context: Context, bodies: list[dict[str, Any]]) -> list[Message]:
    """The bodies as commands of this build."""
    type_ = context.service.handlers["Place"].command.types_in("shop")[0]
    return [
        Message(f"c{next(_ids)}", "shop", type_, key, TIME, msgspec.json.encode(each), partition_of(key, 2))
        for each in bodies
        for key in [each["order_id"]]
    ]


async def write(folder: Path) -> None:
    """Let the three builds run, and leave a command of each in the log."""
    left = []
    for stage, (text, own) in enumerate(BODIES):
        engines = sqlite_engines(folder)
        context = await opened(build(text=text), engines, timing=TIMING)
        await admit(context)
        for message in commands(context, bodies_of(stage)):
            [outcome] = await direct_executor(context).run([Task(message)])
            assert getattr(outcome, "state", "") == "done", outcome
        async with running(WriteHead(context, f"w{stage}").run()):
            await caught_up(context)
        left += commands(context, [{**own[0], "order_id": f"left{stage}"}])
        await engines.close()
    engines = sqlite_engines(folder)
    context = await opened(build(text=THIRD), engines, timing=TIMING)
    for message in left:
        await context.log.append("shop.commands", [message])
    await engines.close()
    forget_all()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True)
    asyncio.run(write(Path(sys.argv[1])))
    for file in Path(sys.argv[1]).glob("*.db"):
        file.write_bytes(file.read_bytes().replace(HERE, b"." + b"/" * (len(HERE) - 1)))
