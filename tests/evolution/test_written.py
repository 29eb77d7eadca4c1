"""What three earlier builds have written, each with another version of the same event and command, opens today."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera.core.context import Context
from chimera.core.names import generation_name
from chimera.reads import Reads
from chimera.run.write_head import WriteHead
from chimera.testing.engines import sqlite_engines
from chimera.testing.waiting import eventually, running
from chimera.upkeep.admission.naming import admit
from chimera.upkeep.parked import Wanted, parked_keys, rehearse_key, retry_key
from chimera.views.generations import read_generations
from tests.builds import build, forget_all
from tests.evolution.texts import TODAY
from tests.evolution.writing import BODIES, bodies_of
from tests.support import all_of, opened
from tests.upkeep.test_naming import caught_up
from tests.views.test_rebuild import TIMING

HERE = Path(__file__).parent


def amount_of(body: dict[str, Any]) -> int:
    """The cents of an order of whatever version, worked out without any upgrade."""
    if "euros" in body:
        return int(body["euros"]) * 100
    return int(body["cents"]) if "cents" in body else sum(body["lines"])


def wanted() -> dict[str, list[int]]:
    """All amounts of each order, in order."""
    found: dict[str, list[int]] = {}
    for stage in range(3):
        for body in bodies_of(stage):
            found.setdefault(body["order_id"], []).append(amount_of(body))
    for stage, (_, own) in enumerate(BODIES):
        found[f"left{stage}"] = [amount_of(own[0])]
    return found


@pytest.fixture
async def today(tmp_path: Path) -> AsyncIterator[Context]:
    with tarfile.open(HERE / "written.tar.gz") as written:
        written.extractall(tmp_path, filter="data")
    engines = sqlite_engines(tmp_path)
    context = await opened(build(text=TODAY), engines, timing=TIMING)
    await admit(context)
    yield context
    await engines.close()
    forget_all()


async def shown(context: Context) -> dict[str, list[int]]:
    """What the generation of today's code shows, once it serves."""
    state = (await read_generations(context.views, ["sale"]))["sale"]
    if state.building is not None or state.serving.number < 2:
        return {}
    name, after = generation_name("sale", state.serving.number), ""
    found: dict[str, list[int]] = {}
    while page := await context.views.scan(name, after):
        found |= {each.key: msgspec.json.decode(each.data or b"")["amounts"] for each in page}
        after = page[-1].key
    return found


async def test_a_journal_of_three_earlier_versions_is_rebuilt_into_todays_views(today: Context) -> None:
    types = await today.store.types()
    assert types.keys() == {"shop.Placed", "shop.Placed@2", "shop.Placed@3"}
    async with running(WriteHead(today, "today").run()):
        await caught_up(today)

        async def all_shown() -> bool:
            return await shown(today) == wanted()

        await eventually(all_shown, 30)
        for key in await parked_keys(today, Wanted()):
            assert {each.result for each in await rehearse_key(today, key)} == {"applied"}
            await retry_key(today, key)
        await caught_up(today)
        assert not await parked_keys(today, Wanted())
        [mail] = [each for each in today.service.entities if each.__name__ == "Mail"]
        assert {row.order_id: row.amounts for row in await all_of(today.store, mail)} == wanted()
    order: Any = next(iter(today.service.folds))
    async with today.store.snapshot() as session:
        reads: Any = Reads(today.service, session)
        assert {key: (await reads.load(order, key)).amounts for key in wanted()} == wanted()
