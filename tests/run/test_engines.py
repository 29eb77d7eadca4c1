"""Engines by URL: those that come with Chimera, those that others add, and what is said of one that can't be had."""

from __future__ import annotations

import sys

import pytest

from chimera.errors import SettingsError
from chimera.run.addresses import SCHEMES
from chimera.run.engines import ADAPTERS, open_engine
from chimera.testing.memory import MemoryLog

DRIVERS = {
    "postgresql": ("asyncpg", "postgresql"),
    "mysql": ("asyncmy", "mysql"),
    "mongodb+srv": ("pymongo", "mongodb"),
    "rediss": ("redis", "redis"),
    "kafka+ssl": ("confluent_kafka", "kafka"),
    "memcached": ("emcache", "memcached"),
}


def without(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    """As if a driver were not installed, and its adapter not loaded yet."""
    for name in [
        name for name in sys.modules if name.partition(".")[0] == driver or name.startswith("chimera.adapters.")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)


@pytest.mark.parametrize(("scheme", "driver", "extra"), [(scheme, *both) for scheme, both in DRIVERS.items()])
def test_an_engine_whose_driver_is_not_installed_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, scheme: str, driver: str, extra: str
) -> None:
    url = f"{scheme}://user:hunter2@host{'/there' if SCHEMES[scheme].database else ''}"
    without(monkeypatch, driver)
    with pytest.raises(SettingsError, match=rf"{driver}.*; type: pip install 'chimera-kit\[{extra}\]'"):
        open_engine(SCHEMES[scheme].kinds[0], url)


def test_other_packages_add_engines_by_an_entry_point() -> None:
    assert "memory" not in ADAPTERS
    assert isinstance(open_engine("log", "memory://"), MemoryLog)


def test_an_engine_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        SettingsError, match=r"no engine is called 'oracle'; there are: .*faulty, kafka.*memory"
    ) as raised:
        open_engine("store", "oracle://me:hunter2@db/shop")
    assert "hunter2" not in str(raised.value)


def test_the_addresses_of_each_engine_that_comes_with_chimera_are_known() -> None:
    assert SCHEMES.keys() == ADAPTERS.keys()
