"""Suites against real servers: without the engine's packages or its server they are skipped, and with CI=true fail."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.adapters.services import need_packages

REAL = ("kafka", "memcached", "mongodb", "mysql", "postgresql", "rabbitmq", "redis")


class EngineModule(pytest.Module):
    """A module that imports an engine's packages."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        need_packages(self.path.stem.removeprefix("test_"))
        return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if module_path.stem.removeprefix("test_") in REAL:
        return EngineModule.from_parent(parent, path=module_path)
    return None
