"""The page about tables that are there already says what runs."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from uuid import UUID

from chimera.entities import table_of
from chimera.testing.engines import sqlite_engines

PAGE = (Path(__file__).parents[2] / "docs" / "tables.md").read_text()


async def test_the_entity_of_the_page_comes_back_as_it_was(tmp_path: Path) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    module = ModuleType("shop")
    exec(compile(code, "shop", "exec", dont_inherit=True), vars(module))
    engines, table = sqlite_engines(tmp_path), table_of(module.Order)
    await engines.store.create([table], 1)
    order = module.Order(UUID(int=1), "ann@x", Decimal("9.90"), 3, details={"note": "x"})
    async with engines.store.transaction() as tx:
        await tx.save(table, [table.to_row(order)])
        [row] = await tx.find(table, table.where({"order_id": UUID(int=1)}))
    kept = table.from_row(row)
    assert (kept.order_id, kept.total, kept.details, kept.due) == (UUID(int=1), Decimal("9.90"), {"note": "x"}, None)
    await engines.close()
