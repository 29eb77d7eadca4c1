"""The page about uniqueness says what runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.messages import Message
from chimera.testing.engines import memory_engines
from tests.support import TIME, handled, opened

PAGE = (Path(__file__).parents[2] / "docs" / "uniqueness.md").read_text()
BLOCKS = re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


async def test_the_services_of_the_page_answer_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in BLOCKS:
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(code, name, "exec"), vars(module))
    service = sys.modules["people"].people
    context = await opened(service, memory_engines())

    async def ask(command: str, key: str, data: str) -> tuple[str, bytes]:
        message = Message(f"{command} {key} {data}", "people", f"people.{command}", key, TIME, data.encode(), 0)
        [outcome] = handled(await direct_executor(context).run([Task(message)]))
        return outcome.reason or outcome.state, outcome.body

    assert await ask("Register", "u1", '{"user_id": "u1", "email": "ann@x"}') == ("done", b"")
    assert await ask("Register", "u2", '{"user_id": "u2", "email": "Ann@x"}') == ("taken", b"")
    assert await ask("Join", "u3", '{"user_id": "u3", "email": "ANN@X"}') == ("done", b'{"already":"u1"}')
    signed_up, body = await ask("SignUp", "u4", '{"user_id": "u4", "email": "dee@x"}')
    assert (signed_up, body[:10]) == ("done", b'{"until":"')
    assert await ask("SignUp", "u5", '{"user_id": "u5", "email": "dee@x"}') == ("taken", b"")
    assert await ask("TakeSeat", "g1", '{"guest_id": "g1", "hall": "a", "number": 7}') == ("done", b"")
    assert await ask("TakeSeat", "g2", '{"guest_id": "g2", "hall": "a", "number": 7}') == ("taken", b"")
