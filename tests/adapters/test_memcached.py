"""memcached keeps the contract of last known values, and what it promises beyond it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from chimera.adapters.memcached import MemcachedLastKnown, open_engine
from chimera.errors import SettingsError
from chimera.ports import LastKnownStore
from chimera.testing.contracts.lastknown import LastKnownContract
from tests.adapters.services import url_of

SUITE = LastKnownContract()


def opened(options: str = "") -> Any:
    return open_engine("last_known", f"{url_of('memcached')}?prefix={uuid.uuid4().hex}{options}")


class TestMemcachedLastKnown(LastKnownContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[LastKnownStore]:
        """Patient, as a busy machine may take more than a few milliseconds for a thousand values."""
        engine = opened()
        engine._patience._wait_s = 1.0
        yield engine
        await engine.close()

    @pytest.fixture
    async def fleeting(self) -> AsyncIterator[LastKnownStore]:
        engine = opened("&ttl=1")
        yield engine
        await engine.close()

    @pytest.fixture
    def down(self, unused_tcp_port: int) -> Callable[[], LastKnownStore]:
        return lambda: MemcachedLastKnown("127.0.0.1", unused_tcp_port)


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_a_server_that_hangs_costs_a_few_milliseconds() -> None:
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    engine = MemcachedLastKnown("127.0.0.1", server.sockets[0].getsockname()[1])
    async with asyncio.timeout(5):
        for _ in range(10):
            assert dict(await engine.get_many(["a"])) == {}
    await engine.close()
    server.close()
    if hanging := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(hanging, timeout=60)


async def test_two_prefixes_do_not_see_one_another() -> None:
    one, other = opened(), opened()
    await SUITE.put(one, {"a": b"1"})
    await SUITE.put(other, {"a": None, "b": b"2"})
    assert set(await SUITE.get(one, ["a", "b"])) == {"a"}
    await one.close()
    await other.close()


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        ("views", "memcached://127.0.0.1", "memcached can't be a views"),
        ("last_known", "memcache://127.0.0.1", "memcached://host:11211"),
        ("last_known", "memcached://127.0.0.1?ttl=soon", "soon"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        open_engine(kind, url)
