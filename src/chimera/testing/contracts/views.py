"""The contract of the port `ViewStore`: documents with their checkpoints, and lists."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence

import hypothesis
import hypothesis.strategies as st
import pytest

from chimera.messages import MAX_KEY
from chimera.ports import LONGEST_PLACE, WITHIN, Checkpoint, Document, Listing, Move, ViewStore
from chimera.testing.contracts.suite import MEBIBYTE, NAMES, EngineSuite, quick

VIEW = "contract_sales"
CONSUMER = "contract/sales"


LISTED = "contract_listed"
KEEPER = "contract_listed"
"""The consumer that writes it."""
ONE, OTHER = bytes(range(16)), b"\xff" * 16
EDGES = [*map(bytes.fromhex, ("00", "0000", "00ff", "01", "7f", "80", "c328", "feff", "ff", "ffff", "61", "6100"))]
"""Places at the borders: no text, bytes that are no UTF-8, beginnings of one another."""


class ListContract(EngineSuite):
    """Every guarantee of `ViewStore` that is about lists."""

    async def test_a_list_is_in_the_order_of_the_bytes_of_its_places(self, engine: ViewStore) -> None:
        """Whatever bytes they are, on every engine; keys as UTF-8, up to the longest place there is."""
        await engine.create()
        places = [*EDGES, *(name.encode() for name in NAMES), "🦁".encode() * MAX_KEY]
        places += [b"\xff" * LONGEST_PLACE, b"\x80" * (LONGEST_PLACE - 1), b"\0" * LONGEST_PLACE]
        places += [bytes([high, low]) for high in (0, 1, 127, 128, 254, 255) for low in range(0, 256, 5)]
        distinct = list(dict.fromkeys(places))
        random.Random(1).shuffle(distinct)  # noqa: S311 - any order but theirs
        assert await put_entries(engine, *distinct)
        assert list(await engine.listed(LISTED, ONE, limit=1000)) == sorted(distinct)

    async def test_pages_of_a_list_go_on_after_a_place_and_miss_nothing(self, engine: ViewStore) -> None:
        """Places that differ in their end only, such as equal values, stand on either side of a border."""
        await engine.create()
        places = [b"equal\0\0" + b"%03d" % number for number in range(40)] + EDGES
        await put_entries(engine, *places)
        for limit in (1, 7, 52, 100):
            paged: list[bytes] = []
            while page := await engine.listed(LISTED, ONE, paged[-1] if paged else b"", limit):
                assert len(page) <= min(limit, len(places) - len(paged))
                paged += page
            assert paged == sorted(places)
        assert list(await engine.listed(LISTED, ONE, b"equal\0\0" + b"009x", 1)) == [b"equal\0\0" + b"010"]

    async def test_places_that_come_or_go_between_pages_move_no_other(self, engine: ViewStore) -> None:
        """What is there all the time is read once, whatever happens before, at and after the border."""
        await engine.create()
        await put_entries(engine, *(b"%02d" % number for number in range(0, 20, 2)))
        first = list(await engine.listed(LISTED, ONE, limit=4))
        assert first == [b"00", b"02", b"04", b"06"]
        await put_entries(engine, b"01", b"05", b"07", gone=[b"02", b"06", b"08"])
        assert list(await engine.listed(LISTED, ONE, first[-1], 4)) == [b"07", b"10", b"12", b"14"]

    async def test_the_first_of_a_list_can_be_skipped(self, engine: ViewStore) -> None:
        """Counted from where the page begins; beyond the end there is nothing."""
        await engine.create()
        await put_entries(engine, *(b"%02d" % number for number in range(10)))
        assert list(await engine.listed(LISTED, ONE, limit=3, skip=4)) == [b"04", b"05", b"06"]
        assert list(await engine.listed(LISTED, ONE, b"05", 3, 2)) == [b"08", b"09"]
        assert list(await engine.listed(LISTED, ONE, limit=3, skip=10)) == []

    async def test_each_filter_of_each_view_has_a_list_of_its_own(self, engine: ViewStore) -> None:
        """The same places in all of them; filters next to one another, the first and the last there is."""
        await engine.create()
        filters = [b"\0" * 16, ONE, ONE[:-1] + b"\x10", b"\xfe" + b"\xff" * 15, OTHER]
        views = [LISTED, f"{LISTED}~2", "contract_listed.x", "ünï 🦁/%"]
        everything = [Listing(view, within, b"\1" + within[-1:]) for view in views for within in filters]
        for view in views:
            own = [each for each in everything if each.view == view]
            assert await engine.write(view, [], [], own)
        for view, within in itertools.product(views, filters):
            assert list(await engine.listed(view, within)) == [b"\1" + within[-1:]]
        await engine.write(LISTED, [], [], [Listing(LISTED, ONE, b"\1\x0f", is_gone=True)])
        assert list(await engine.listed(LISTED, ONE)) == []
        assert list(await engine.listed(f"{LISTED}~2", ONE)) == [b"\1\x0f"]
        assert list(await engine.listed("contract_nothing", ONE)) == []

    async def test_all_lists_of_a_view_are_read_in_one_order(self, engine: ViewStore) -> None:
        """Every entry once, filter by filter, each with its filter before it; pages end within filters and between."""
        await engine.create()
        filters = [b"\0" * WITHIN, ONE, ONE[:-1] + b"\x10", b"/" * WITHIN, b"\xfe" + b"\xff" * 15, OTHER]
        entries = [Listing(LISTED, within, at) for within in filters for at in (*EDGES, b"\xff" * LONGEST_PLACE)]
        assert await engine.write(KEEPER, [], [], entries)
        for other in (f"{LISTED}~2", "contract_listed.x"):
            assert await engine.write(other, [], [], [Listing(other, ONE, b"1")])
        wanted = sorted(each.within + each.at for each in entries)
        for limit in (1, 7, 13, 1000):
            paged: list[bytes] = []
            while len(paged) <= len(wanted) and (page := await engine.listed(LISTED, b"", b"".join(paged[-1:]), limit)):
                paged += page
            assert paged == wanted
        assert list(await engine.listed(LISTED, b"", limit=3, skip=4)) == wanted[4:7]

    async def test_an_entry_that_is_there_or_gone_already_stays_so(self, engine: ViewStore) -> None:
        """It is there once."""
        await engine.create()
        await put_entries(engine, b"a", gone=[b"b"])
        await put_entries(engine, b"a", b"c", gone=[b"b"])
        assert list(await engine.listed(LISTED, ONE)) == [b"a", b"c"]
        await put_entries(engine, gone=[b"a", b"c"])
        await put_entries(engine, b"c", gone=[b"a"])
        assert list(await engine.listed(LISTED, ONE)) == [b"c"]

    async def test_lists_documents_and_checkpoints_move_together(self, engine: ViewStore) -> None:
        """In one write, which a checkpoint or a document that is elsewhere refuses, with all of it."""
        await engine.create()
        document, come = Document(LISTED, "a", b"1"), [Listing(LISTED, ONE, b"1")]
        move = Move("orders", 0, 0, Checkpoint(1))
        revision = await engine.write(KEEPER, [document], [move], come)
        assert revision
        later = [Listing(LISTED, ONE, b"1", is_gone=True), Listing(LISTED, ONE, b"2")]
        current = document._replace(data=b"2", revision=revision)
        assert not await engine.write(KEEPER, [current], [move], later)
        stale = current._replace(revision=revision + 1)
        assert not await engine.write(KEEPER, [stale], [move._replace(before=1)], later)
        assert not await engine.write(KEEPER, [document], [], later)
        assert list(await engine.listed(LISTED, ONE)) == [b"1"]
        assert await engine.write(KEEPER, [current], [move._replace(before=1, after=Checkpoint(2))], later)
        assert list(await engine.listed(LISTED, ONE)) == [b"2"]

    async def test_of_several_writers_only_the_winners_entries_are_there(self, engine: ViewStore) -> None:
        """Of ten at once that move one checkpoint; then one after another goes on where it is."""
        await engine.create()
        moved = await asyncio.gather(
            *(
                engine.write(
                    KEEPER,
                    [Document(LISTED, f"k{writer}", b"1")],
                    [Move("orders", 0, 0, Checkpoint(writer + 1))],
                    [Listing(LISTED, ONE, b"%d" % writer), Listing(LISTED, OTHER, b"%d" % writer)],
                )
                for writer in range(10)
            )
        )
        [winner] = [writer for writer, revision in enumerate(moved) if revision]
        assert list(await engine.listed(LISTED, ONE)) == [b"%d" % winner]
        assert list(await engine.listed(LISTED, OTHER)) == [b"%d" % winner]

    async def test_dropping_a_view_deletes_its_lists_only(self, engine: ViewStore) -> None:
        """Of one generation, not of another one; what comes into them later is there alone."""
        await engine.create()
        others = f"{LISTED}~2"
        for view in (LISTED, others):
            await engine.write(
                view, [Document(view, "a", b"1")], [], [Listing(view, ONE, b"1"), Listing(view, OTHER, b"2")]
            )
        await engine.drop(LISTED, [LISTED])
        assert [list(await engine.listed(LISTED, each)) for each in (ONE, OTHER)] == [[], []]
        assert [list(await engine.listed(others, each)) for each in (ONE, OTHER)] == [[b"1"], [b"2"]]
        await put_entries(engine, b"3")
        assert list(await engine.listed(LISTED, ONE)) == [b"3"]

    async def test_thousands_of_entries_come_and_go_in_one_write(self, engine: ViewStore) -> None:
        """Three thousand, then all but one of them gone and as many others there."""
        await engine.create()
        names = [b"%05d" % number for number in range(3_000)]
        await put_entries(engine, *names)
        assert list(await engine.listed(LISTED, ONE, limit=10_000)) == names
        later = [b"x" + name for name in names]
        await put_entries(engine, *later, gone=names[1:])
        assert list(await engine.listed(LISTED, ONE, limit=10_000)) == [names[0], *later]

    @quick
    @hypothesis.given(
        st.lists(
            st.tuples(st.sampled_from([b"a", b"\0", b"\xff", b"a\xff"]), st.booleans(), st.booleans(), st.booleans()),
            max_size=12,
        )
    )
    async def test_any_mix_of_writes_behaves_like_sets(
        self, engine: ViewStore, steps: Sequence[tuple[bytes, bool, bool, bool]]
    ) -> None:
        """Entries that come and go in two filters, some in writes that are refused."""
        await engine.create()
        view = f"contract_sets_{next(_fresh)}"
        model: dict[bytes, set[bytes]] = {ONE: set(), OTHER: set()}
        number = 0
        for at, is_gone, is_other, refused in steps:
            within = OTHER if is_other else ONE
            move = Move("s", 0, number + refused, Checkpoint(number + 1))
            written = await engine.write(view, [], [move], [Listing(view, within, at, is_gone)])
            assert bool(written) != refused
            if written:
                number += 1
                model[within] = model[within] - {at} if is_gone else model[within] | {at}
            for each, wanted in model.items():
                assert list(await engine.listed(view, each)) == sorted(wanted)

    async def test_lists_outlive_the_engine(self, engine: ViewStore, reopen: Callable[[], ViewStore]) -> None:
        """For engines that are durable."""
        if not engine.features.durable:
            pytest.skip("the engine does not promise durability")
        await engine.create()
        await put_entries(engine, b"a", b"b")
        await engine.close()
        again = reopen()
        await again.create()
        assert list(await again.listed(LISTED, ONE)) == [b"a", b"b"]
        await put_entries(again, gone=[b"a"])
        assert list(await again.listed(LISTED, ONE)) == [b"b"]
        await again.close()


class ViewStoreContract(ListContract):
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


async def put_entries(engine: ViewStore, *come: bytes, gone: Sequence[bytes] = ()) -> int:
    """Write entries of one filter that come and that are gone."""
    listings = [Listing(LISTED, ONE, at, is_gone=True) for at in gone] + [Listing(LISTED, ONE, at) for at in come]
    return await engine.write(KEEPER, [], [], listings)
