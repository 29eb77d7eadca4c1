"""The page about tables that are there already says what runs."""

from __future__ import annotations

import re
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from uuid import UUID

import pytest

from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.entities import table_of
from chimera.messages import Message
from chimera.testing.engines import sqlite_engines
from tests.support import TIME, handled, opened

PAGE = (Path(__file__).parents[2] / "docs" / "tables.md").read_text()
BLOCKS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


async def test_the_entity_of_the_page_comes_back_as_it_was(tmp_path: Path) -> None:
    module = ModuleType("shop")
    exec(compile(BLOCKS["shop"], "shop", "exec", dont_inherit=True), vars(module))
    engines, table = sqlite_engines(tmp_path), table_of(module.Order)
    await engines.store.create([table], 1)
    order = module.Order(UUID(int=1), "ann@x", Decimal("9.90"), 3, details={"note": "x"})
    async with engines.store.transaction() as tx:
        await tx.save(table, [table.to_row(order)])
        [row] = await tx.find(table, table.where({"order_id": UUID(int=1)}))
    kept = table.from_row(row)
    assert (kept.order_id, kept.total, kept.details, kept.due) == (UUID(int=1), Decimal("9.90"), {"note": "x"}, None)
    await engines.close()


async def test_sqlalchemy_of_the_page_is_in_the_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("buying")
    monkeypatch.setitem(sys.modules, "buying", module)
    exec(compile(BLOCKS["buying"], "buying", "exec", dont_inherit=True), vars(module))
    engines = sqlite_engines(tmp_path)
    context = await opened(module.buying, engines)

    async def buy(order_id: str) -> bytes:
        data = b'{"order_id":"%b","buyer_id":"ann"}' % order_id.encode()
        message = Message(order_id, "buying", "buying.Buy", order_id, TIME, data, 0)
        [outcome] = handled(await direct_executor(context).run([Task(message)]))
        assert outcome.state == "done", outcome
        return bytes(outcome.body)

    assert [await buy("a"), await buy("b")] == [b"1", b"2"]
    assert sum((await engines.store.heads()).values()) == 2
    await engines.close()
