"""The page about what a handler may read beside its rows says what runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.names import copy_name
from chimera.messages import Message
from chimera.ports import Document
from chimera.testing.engines import memory_engines
from tests.support import TIME, handled, opened

PAGE = (Path(__file__).parents[2] / "docs" / "lagging.md").read_text()


async def test_the_handler_of_the_page_quotes_what_is_borrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    module = ModuleType("quotes")
    monkeypatch.setitem(sys.modules, "quotes", module)
    exec(compile(code, "quotes", "exec", dont_inherit=True), vars(module))
    context = await opened(module.quotes, memory_engines())
    copy = copy_name("prices", "async")
    price = Document(copy, "a", b'{"article_id":"a","cents":40}')
    assert await context.views.write(copy, [price], [])

    async def ask(*article_ids: str) -> str:
        data = msgspec.json.encode({"quote_id": "q", "article_ids": article_ids})
        message = Message(f"{article_ids}", "quotes", "quotes.Ask", "q", TIME, data, 0)
        [outcome] = handled(await direct_executor(context).run([Task(message)]))
        return outcome.reason or outcome.state

    assert await ask("a") == "done"
    assert await ask("a", "b") == "unknown_article"
    await context.resources.close()
