"""The contract of the port `ViewStore`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

import hypothesis
import hypothesis.strategies as st
import pytest

from chimera.messages import MAX_KEY
from chimera.ports import Checkpoint, Document, Move, ViewStore
from chimera.testing.contracts.suite import MEBIBYTE, NAMES, EngineSuite, quick

VIEW = "contract_sales"
CONSUMER = "contract/sales"


class ViewStoreContract(EngineSuite):
    """Every guarantee of `ViewStore`. A subclass provides `engine`, and `reopen` if it is durable or shared."""

    async def test_creating_twice_changes_nothing(self, engine: ViewStore) -> None:
        """Documents are as they were."""
        await engine.create()
        assert await put(engine, "a", b"1")
        await engine.create()
        assert await data(engine, "a") == b"1"

    async def test_documents_come_back_byte_for_byte_under_any_key(self, engine: ViewStore) -> None:
        """With the view, the key and a revision above 0."""
        await engine.create()
        documents = [Document(VIEW, name, b'{"n": "\xc3\xbc", "at":%d}' % at) for at, name in enumerate(NAMES)]
        assert await engine.write(CONSUMER, documents, [])
        found = await engine.get(VIEW, NAMES)
        assert {key: document.data for key, document in found.items()} == {each.key: each.data for each in documents}
        assert all(document[:2] == (VIEW, key) and document.revision > 0 for key, document in found.items())

    async def test_keys_without_a_document_are_left_out(self, engine: ViewStore) -> None:
        """A key asked for twice comes once; a view without a document has none."""
        await engine.create()
        await put(engine, "a", b"1")
        assert set(await engine.get(VIEW, ["a", "nobody", "a"])) == {"a"}
        assert dict(await engine.get(VIEW, [])) == {}
        assert dict(await engine.get("contract_other", ["a"])) == {}

    async def test_thousands_of_keys_are_got_at_once(self, engine: ViewStore) -> None:
        """And written at once: two and twelve thousand."""
        await engine.create()
        for count in (2_000, 12_000):
            names = [f"{count}-{at}" for at in range(count)]
            assert await engine.write(CONSUMER, [Document(VIEW, name, name.encode()) for name in names], [])
            found = await engine.get(VIEW, names)
            assert {key: document.data for key, document in found.items()} == {name: name.encode() for name in names}

    async def test_a_mebibyte_passes(self, engine: ViewStore) -> None:
        """As one document."""
        await engine.create()
        await put(engine, "a", MEBIBYTE)
        assert await data(engine, "a") == MEBIBYTE

    async def test_a_document_as_large_as_the_engine_says_is_kept(self, engine: ViewStore) -> None:
        """New, and changed; beside others, with the longest key. Of engines that take more, as large as 24 MiB."""
        await engine.create()
        size, key = min(engine.features.largest, 24 << 20), "🦁" * MAX_KEY
        for letter in (b"a", b"b"):
            found = await engine.get(VIEW, [key])
            revision = found[key].revision if key in found else 0
            large, small = Document(VIEW, key, letter * size, revision), Document(VIEW, letter.decode(), b"1")
            assert await engine.write(CONSUMER, [large, small], [])
            assert await data(engine, key) == large.data
            assert await data(engine, letter.decode()) == b"1"

    async def test_documents_and_checkpoints_move_together(self, engine: ViewStore) -> None:
        """In one write; a checkpoint may also move alone, and is one consumer's only."""
        await engine.create()
        assert dict(await engine.checkpoints(CONSUMER)) == {}
        reached = {("orders", 0): Checkpoint(3, 7), ("orders", 5): Checkpoint(1, 1), ("gigs", 0): Checkpoint(2)}
        moves = [Move(*place, 0, checkpoint) for place, checkpoint in reached.items()]
        assert await engine.write(CONSUMER, [Document(VIEW, "a", b"1")], moves)
        assert dict(await engine.checkpoints(CONSUMER)) == reached
        assert await engine.write(CONSUMER, [], [Move("orders", 0, 3, Checkpoint(4, 9))])
        assert (await engine.checkpoints(CONSUMER))["orders", 0] == Checkpoint(4, 9)
        await engine.write(
            CONSUMER, [], [Move("orders", 0, 4, Checkpoint(5, 9, "a" * 32)), Move("x", 3, 0, Checkpoint(1))]
        )
        await engine.write(CONSUMER, [], [Move("gigs", 0, 2, Checkpoint(3, 0, "b" * 32))])
        assert (await engine.checkpoints(CONSUMER))["orders", 0] == Checkpoint(5, 9, "a" * 32)
        assert (await engine.checkpoints(CONSUMER))["gigs", 0] == Checkpoint(3, 0, "b" * 32)
        await engine.write(CONSUMER, [], [Move("orders", 0, 5, Checkpoint(6, 10))])
        assert (await engine.checkpoints(CONSUMER))["orders", 0] == Checkpoint(6, 10)
        assert dict(await engine.checkpoints("contract/others")) == {}

    async def test_a_checkpoint_that_has_moved_changes_nothing(self, engine: ViewStore) -> None:
        """Neither documents nor other checkpoints; the write returns 0."""
        await engine.create()
        await engine.write(CONSUMER, [], [Move("orders", 0, 0, Checkpoint(3))])
        for before in (0, 2, 4):
            moves = [Move("orders", 1, 0, Checkpoint(1)), Move("orders", 0, before, Checkpoint(9))]
            assert not await engine.write(CONSUMER, [Document(VIEW, "a", b"1")], moves)
        assert not await engine.write(CONSUMER, [Document(VIEW, "a", b"1")], [Move("gigs", 0, 1, Checkpoint(2))])
        assert await data(engine, "a") is None
        assert dict(await engine.checkpoints(CONSUMER)) == {("orders", 0): Checkpoint(3)}

    async def test_a_write_tells_the_revision_of_what_it_put(self, engine: ViewStore) -> None:
        """One revision for all of its documents, another one for each write, above 0 also without a document."""
        await engine.create()
        told = await engine.write(CONSUMER, [Document(VIEW, name, b"1") for name in "abc"], [])
        assert {each.revision for each in await engine.scan(VIEW)} == {told}
        changes = [Document(VIEW, "a", b"2", told), Document(VIEW, "b", None, told), Document(VIEW, "d", b"2")]
        again = await engine.write(CONSUMER, changes, [Move("orders", 0, 0, Checkpoint(1))])
        found = {each.key: each.revision for each in await engine.scan(VIEW)}
        assert told != again
        assert found == {"a": again, "c": told, "d": again}
        assert await engine.write(CONSUMER, [], [Move("orders", 0, 1, Checkpoint(2))]) > 0

    async def test_a_document_that_has_changed_changes_nothing(self, engine: ViewStore) -> None:
        """Nor does one at a revision that never was; the write returns 0."""
        await engine.create()
        await put(engine, "a", b"1")
        old = await revision(engine, "a")
        await put(engine, "a", b"2")
        for stale in (0, old, old + 1_000_000):
            documents = [Document(VIEW, "b", b"1"), Document(VIEW, "a", b"3", stale)]
            assert not await engine.write(CONSUMER, documents, [Move("orders", 0, 0, Checkpoint(1))])
        assert not await engine.write(CONSUMER, [Document(VIEW, "a", None, old)], [])
        assert not await engine.write(CONSUMER, [Document(VIEW, "nobody", b"3", old)], [])
        assert await data(engine, "a") == b"2"
        assert await data(engine, "b") is None
        assert dict(await engine.checkpoints(CONSUMER)) == {}

    async def test_a_document_without_data_is_deleted(self, engine: ViewStore) -> None:
        """Deleting one that is not there is no error, and it may come back."""
        await engine.create()
        await put(engine, "a", b"1")
        assert await put(engine, "a", None)
        assert await data(engine, "a") is None
        assert await put(engine, "a", None)
        assert await put(engine, "a", b"2")
        assert await data(engine, "a") == b"2"

    async def test_a_revision_from_before_a_deletion_is_never_valid_again(self, engine: ViewStore) -> None:
        """Revisions of a key that comes back do not start again."""
        await engine.create()
        stale: set[int] = set()
        for round_ in range(5):
            await put(engine, "a", b"%d" % round_)
            for old in stale:
                assert not await engine.write(CONSUMER, [Document(VIEW, "a", b"stale", old)], [])
            stale.add(await revision(engine, "a"))
            await put(engine, "a", None)
        assert len(stale) == 5

    async def test_concurrent_writers_of_a_document_lose_no_update(self, engine: ViewStore) -> None:
        """Fifteen read it, and write it only at the revision that they have read."""
        await engine.create()

        async def increment() -> None:
            while True:
                found = (await engine.get(VIEW, ["a"])).get("a", Document(VIEW, "a", b"0"))
                await asyncio.sleep(0)
                if await engine.write(CONSUMER, [found._replace(data=b"%d" % (int(found.data or b"0") + 1))], []):
                    return

        await asyncio.gather(*(increment() for _ in range(15)))
        assert await data(engine, "a") == b"15"

    async def test_only_one_of_several_writers_moves_a_checkpoint(self, engine: ViewStore) -> None:
        """Of ten at once; the documents of the others are not there."""
        await engine.create()
        done = await asyncio.gather(
            *(
                engine.write(
                    CONSUMER, [Document(VIEW, f"k{writer}", b"1")], [Move("orders", 0, 0, Checkpoint(writer + 1))]
                )
                for writer in range(10)
            )
        )
        [winner] = [writer for writer, moved in enumerate(done) if moved]
        assert [document.key for document in await engine.scan(VIEW)] == [f"k{winner}"]
        assert dict(await engine.checkpoints(CONSUMER)) == {("orders", 0): Checkpoint(winner + 1)}

    async def test_scan_follows_the_utf8_bytes_of_keys_in_pages(self, engine: ViewStore) -> None:
        """Not a collation's order, nor that of UTF-16; other views' documents are left out."""
        await engine.create()
        names = [*NAMES, "A", "a", "ä", "\uffff", "\U00010000", "Z", "a\u0301", "0", "10", "9"]
        await engine.write(CONSUMER, [Document(VIEW, name, b"1") for name in names], [])
        await engine.write(CONSUMER, [Document("contract_other", "b", b"1")], [])
        ordered = sorted(names, key=str.encode)
        assert [document.key for document in await engine.scan(VIEW)] == ordered
        paged: list[str] = []
        while page := await engine.scan(VIEW, paged[-1] if paged else "", 4):
            assert len(page) <= 4
            paged += [document.key for document in page]
        assert paged == ordered

    async def test_what_was_scanned_can_be_written(self, engine: ViewStore) -> None:
        """It has the same revision as one that was got."""
        await engine.create()
        await put(engine, "a", b"1")
        [document] = await engine.scan(VIEW)
        assert document == (await engine.get(VIEW, ["a"]))["a"]
        assert await engine.write(CONSUMER, [document._replace(data=b"2")], [])

    async def test_dropping_deletes_the_views_and_the_consumers_checkpoints_only(self, engine: ViewStore) -> None:
        """The consumer can begin anew; revisions from before are not valid again."""
        await engine.create()
        for consumer, view in ((CONSUMER, VIEW), ("contract/others", "contract_other")):
            await engine.write(consumer, [Document(view, "a", b"1")], [Move("orders", 0, 0, Checkpoint(1))])
        old = await revision(engine, "a")
        await engine.drop(CONSUMER, [VIEW])
        assert dict(await engine.checkpoints(CONSUMER)) == {}
        assert list(await engine.scan(VIEW)) == []
        assert set(await engine.checkpoints("contract/others")) == {("orders", 0)}
        assert set(await engine.get("contract_other", ["a"])) == {"a"}
        assert await engine.write(CONSUMER, [Document(VIEW, "a", b"2")], [Move("orders", 0, 0, Checkpoint(1))])
        assert not await engine.write(CONSUMER, [Document(VIEW, "a", b"3", old)], [])

    @quick
    @hypothesis.given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.none() | st.just(b"1"), st.booleans(), st.integers(0, 2)),
            max_size=12,
        )
    )
    async def test_any_mix_of_writes_behaves_like_a_dict(
        self, engine: ViewStore, steps: Sequence[tuple[str, bytes | None, bool, int]]
    ) -> None:
        """Puts and deletions, at valid and stale revisions and checkpoints."""
        await engine.create()
        view = f"contract_mix_{next(_fresh)}"
        model: dict[str, bytes] = {}
        at = 0
        for key, value, current, before in steps:
            found = (await engine.get(view, [key])).get(key, Document(view, key, None))
            document = Document(view, key, value, found.revision if current else found.revision + 1)
            moved = await engine.write(view, [document], [Move("s", 0, before, Checkpoint(before + 1))])
            assert bool(moved) == (current and before == at)
            if moved:
                at = before + 1
                model = {**model, key: value} if value is not None else {k: v for k, v in model.items() if k != key}
            assert {each.key: each.data for each in await engine.scan(view)} == model
            assert (await engine.checkpoints(view)).get(("s", 0), Checkpoint()).number == at

    async def test_what_was_written_outlives_the_engine(
        self, engine: ViewStore, reopen: Callable[[], ViewStore]
    ) -> None:
        """For engines that are durable; revisions go on too."""
        if not engine.features.durable:
            pytest.skip("the engine does not promise durability")
        await engine.create()
        await engine.write(CONSUMER, [Document(VIEW, "a", b"1")], [Move("orders", 0, 0, Checkpoint(1, 5))])
        old = await revision(engine, "a")
        await put(engine, "a", None)
        await engine.close()
        again = reopen()
        await again.create()
        assert dict(await again.checkpoints(CONSUMER)) == {("orders", 0): Checkpoint(1, 5)}
        await put(again, "a", b"2")
        assert await revision(again, "a") != old
        await again.close()

    async def test_two_engines_see_one_anothers_writes(
        self, engine: ViewStore, reopen: Callable[[], ViewStore]
    ) -> None:
        """For engines that are shared: at once, and stale revisions are refused by either."""
        if not engine.features.shared:
            pytest.skip("the engine can't be shared")
        other = reopen()
        await engine.create()
        await other.create()
        for turn in range(6):
            one, two = (engine, other) if turn % 2 else (other, engine)
            stale = await revision(two, "a")
            assert await put(one, "a", b"%d" % turn)
            assert await data(two, "a") == b"%d" % turn
            assert not await two.write(CONSUMER, [Document(VIEW, "a", b"stale", stale)], [])
        await other.close()


_fresh = itertools.count()


async def put(engine: ViewStore, key: str, value: bytes | None) -> int:
    """Write over whatever is there."""
    return await engine.write(CONSUMER, [Document(VIEW, key, value, await revision(engine, key))], [])


async def revision(engine: ViewStore, key: str) -> int:
    """The revision of a document; 0 without one."""
    found = (await engine.get(VIEW, [key])).get(key)
    return found.revision if found else 0


async def data(engine: ViewStore, key: str) -> bytes | None:
    """The bytes of a document; None without one."""
    found = (await engine.get(VIEW, [key])).get(key)
    return found.data if found else None
