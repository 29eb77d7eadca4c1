"""What the tests of the core share, and how all of them are spread over processes."""

from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest

from chimera.core.context import Context
from chimera.testing.engines import memory_engines, sqlite_engines
from tests.support import Bank, Engines, opened

hypothesis.settings.load_profile("ci")  # the same examples for everybody, however busy the machine is


@pytest.fixture(params=["memory", "sqlite"])
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    """Every engine that needs no server."""
    engines = memory_engines() if request.param == "memory" else sqlite_engines(tmp_path)
    yield engines
    await engines.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In several processes, tests that share a fixture of their module stay together, and the slow ones come first."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if not item.get_closest_marker("xdist_group") and uses_a_fixture_of_its_module(item):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def uses_a_fixture_of_its_module(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    return any(found[-1].scope == "module" for found in item._fixtureinfo.name2fixturedefs.values())


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
async def context(bank: Bank, engines: Engines) -> Context:
    return await opened(bank.service, engines)
