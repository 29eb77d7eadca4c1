"""What the tests of the core share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chimera.body import Body
from tests.support import Bank, Engines, memory_engines, opened, sqlite_engines


@pytest.fixture(params=["memory", "sqlite"])
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    """Every engine that needs no server."""
    engines = memory_engines() if request.param == "memory" else sqlite_engines(tmp_path)
    yield engines
    await engines.close()


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
async def body(bank: Bank, engines: Engines) -> Body:
    return await opened(bank.service, engines)
