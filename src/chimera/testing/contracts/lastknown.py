"""The contract of `LastKnownStore`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from chimera.ports import LastKnown, LastKnownStore
from chimera.testing.contracts.suite import NAMES, Suite


class LastKnownContract(Suite):
    """Every guarantee of `LastKnownStore`.

    A subclass provides `engine`, `fleeting` (one that forgets values after a second), and, where there is a server,
    `down`: a function that makes one whose server is not there, or does not answer.
    """

    patience_s = 60.0
    optional = ("down",)

    async def put(self, engine: LastKnownStore, values: Mapping[str, bytes | None]) -> None:
        """Put values until they are known: a cache may lose them, or not answer in time."""
        expected = {key: data for key, data in values.items() if data is not None}
        deadline = time.monotonic() + self.patience_s
        while {key: known.data for key, known in (await engine.get_many(list(values))).items()} != expected:
            assert time.monotonic() < deadline
            await engine.put_many(values)
            await asyncio.sleep(0.01)

    async def get(self, engine: LastKnownStore, keys: Sequence[str]) -> Mapping[str, LastKnown]:
        """The known values, once something is answered."""
        deadline = time.monotonic() + self.patience_s
        while not (found := await engine.get_many(keys)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        return found

    async def test_values_come_back_byte_for_byte_under_any_key(self, engine: LastKnownStore) -> None:
        """Keys with spaces, quotes, control characters or many bytes; values with line ends."""
        await self.put(engine, {name: b'{"n": "\xc3\xbc 1", "at": %d}\r\n' % at for at, name in enumerate(NAMES)})

    async def test_unknown_keys_are_left_out(self, engine: LastKnownStore) -> None:
        """A key asked for twice comes once; asking for none, or putting none, does nothing."""
        await self.put(engine, {"a": b"1"})
        assert set(await self.get(engine, ["a", "nobody", "a"])) == {"a"}
        assert dict(await engine.get_many([])) == {}
        await engine.put_many({})

    async def test_the_age_counts_from_the_last_put(self, engine: LastKnownStore) -> None:
        """In seconds and their fractions."""
        await self.put(engine, {"a": b"1"})
        await asyncio.sleep(0.2)
        assert 0.15 < (await self.get(engine, ["a"]))["a"].age_s < self.patience_s
        again = time.monotonic()
        await self.put(engine, {"a": b"2"})
        assert (await self.get(engine, ["a"]))["a"].age_s < time.monotonic() - again + 0.05

    async def test_none_forgets(self, engine: LastKnownStore) -> None:
        """Putting None for a key that is not known does no harm to the others."""
        await self.put(engine, {"a": b"1", "b": b"1"})
        await self.put(engine, {"a": None, "nobody": None, "b": b"1"})

    async def test_many_are_put_and_got_at_once(self, engine: LastKnownStore) -> None:
        """A thousand in one call."""
        await self.put(engine, {f"key-{at}": b"%d" % at for at in range(1_000)})

    async def test_a_value_too_large_to_keep_does_no_harm(self, engine: LastKnownStore) -> None:
        """Two mebibytes may be refused; then the old value may stay or go, and the next one is put."""
        await self.put(engine, {"a": b"1"})
        large = b"x" * (2 * 1024 * 1024)
        await engine.put_many({"a": large})
        await asyncio.sleep(0.2)
        found = await engine.get_many(["a"])
        assert found.get("a", LastKnown(large, 0)).data == large
        await self.put(engine, {"a": b"2"})

    async def test_values_are_forgotten_after_a_while(self, fleeting: LastKnownStore) -> None:
        """One that is put again and again stays meanwhile."""
        await self.put(fleeting, {"a": b"1"})
        deadline = time.monotonic() + self.patience_s
        while set(await fleeting.get_many(["a", "b"])) != {"b"}:
            assert time.monotonic() < deadline
            await fleeting.put_many({"b": b"1"})
            await asyncio.sleep(0.05)

    async def test_one_that_is_down_answers_nothing_and_at_once(self, down: Callable[[], LastKnownStore]) -> None:
        """Within 30 ms, but for a try that finds out that the server is down, and what the machine itself takes."""
        engine = down()
        times = []
        for _ in range(20):
            start = time.perf_counter()
            await engine.put_many({"a": b"1"})
            assert dict(await engine.get_many(["a"])) == {}
            times.append(time.perf_counter() - start)
        assert sorted(times)[len(times) * 3 // 4] < 0.03
        await engine.close()
