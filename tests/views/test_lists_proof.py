"""Lists that are not what their documents say are found, told and mended: in a rebuild, by audits, on every engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

from chimera.core.context import Context
from chimera.core.names import counts_view
from chimera.ports import Listing, ViewStore
from chimera.testing.broken import WrappedViews
from chimera.testing.contracts.suite import quick
from chimera.testing.engines import memory_engines
from chimera.testing.kit.balance import imbalances
from chimera.testing.waiting import eventually, running
from chimera.upkeep.drift.audits import AuditReport
from chimera.upkeep.drift.lists import audit_lists
from chimera.views.comparison import Comparison
from chimera.views.lists.entries import ViewEntries
from chimera.views.lists.proof import prove_lists
from chimera.views.lists.state import ListsProof
from chimera.views.rebuild import ask_for, last_report
from tests.support import Engines
from tests.testing.broken_lists import LosingLists
from tests.views.blog import TIMING, Article, Blog, Reading, blogging, caught_up, head, put
from tests.views.listed import REAL, is_listed, places, places_of, serves, write
from tests.views.real import real_views

WRONG_KINDS = ("lacks", "more", "nobody's", "elsewhere", "no place", "count", "all", "counts")


async def filled(context: Context, count: int = 12) -> None:
    """The blog's view and lists, with so many articles."""
    async with running(head(context).run()):
        await put(
            context, *(write(f"a{n:03}", f"author{n % 3}", tags=[f"t{n % 2}", "x"], likes=n) for n in range(count))
        )
        await caught_up(context, Reading(context))


async def spoil(views: ViewStore, name: str, place: tuple[bytes, bytes], how: str) -> None:
    """Change the index of a generation's lists behind the back of whoever keeps them."""
    within, at = place
    count = (await views.scan(counts_view(name), limit=1))[0]
    gone = Listing(name, within, at, is_gone=True)
    entries: list[Listing] = []
    match how:
        case "lacks":
            entries = [gone]
        case "more":
            entries = [Listing(name, b"\7" * 16, at)]
        case "nobody's":
            entries = [Listing(name, within, at + b"nobody")]
        case "elsewhere":
            entries = await elsewhere(views, name)
        case "no place":
            entries = [Listing(name, within, b"\1\xff\xfe")]
        case "all":
            entries = [Listing(name, each[:16], each[16:], is_gone=True) for each in await views.listed(name, b"")]
        case "count":
            assert await views.write(name, [count._replace(data=b"41")], [])
        case _:
            everything = await views.scan(counts_view(name), limit=1000)
            assert await views.write(name, [each._replace(data=None) for each in everything], [])
    if entries:
        assert await views.write(name, [], [], entries)


async def elsewhere(views: ViewStore, name: str) -> list[Listing]:
    """The entries of an article as if it were liked more: at another place in the lists of its tags."""
    document = (await views.scan(name, limit=1))[0]
    article = msgspec.json.decode(document.data or b"", type=Article)
    article.likes += 100
    view = Blog().articles
    old, new = (places(view, document.key, data) for data in (document.data, msgspec.json.encode(article)))
    gone = [Listing(name, *each, is_gone=True) for each in old - new]
    return [*gone, *(Listing(name, *each) for each in new - old)]


async def prove(context: Context, *, mend: bool = True, name: str = "article") -> ListsProof:
    entries = ViewEntries(context.service.views["article"])
    return await prove_lists(context.views, name, entries, context.clock, mend=mend)


@pytest.fixture
async def context(engines: Engines) -> Context:
    return await blogging(engines)


async def test_lists_that_are_as_they_must_be_are_proven_and_nothing_is_written(engines: Engines) -> None:
    context = await blogging(engines)
    await filled(context)
    watched = Written(engines.views)
    proof = await prove(await blogging(engines._replace(views=watched)))
    assert proof == ListsProof(checked=len(await places_of(context)))
    assert watched.writes == 0


class Written(WrappedViews):
    """Counts the writes."""

    writes = 0

    async def write(self, *written: Any) -> int:
        self.writes += 1
        return await super().write(*written)


@pytest.mark.parametrize("how", WRONG_KINDS)
async def test_whatever_is_wrong_in_an_index_is_found_and_mended(context: Context, how: str) -> None:
    await filled(context)
    for at in (0, -1):
        await spoil(context.views, "article", (await places_of(context))[at], how)
        assert not await is_listed(context)
        told = await prove(context, mend=False)
        assert told.found > 0
        assert told.mended == 0
        assert not await is_listed(context)
        mended = await prove(context)
        assert (mended.found, mended.mended) == (told.found, told.found)
        assert await is_listed(context)
        assert (await prove(context)).found == 0


KINDS_FOUND = [
    ("lacks", {"missing": 1}),
    ("more", {"invented": 1}),
    ("nobody's", {"invented": 1}),
    ("elsewhere", {"changed": 1}),
    ("no place", {"invented": 1}),
    ("count", {"miscounted": 1}),
    ("all", {"missing": 12}),
    ("counts", {"miscounted": 7}),
]


@pytest.mark.parametrize(("how", "wanted"), KINDS_FOUND)
async def test_what_was_wrong_is_told_by_kind(context: Context, how: str, wanted: dict[str, int]) -> None:
    await filled(context)
    await spoil(context.views, "article", (await places_of(context))[0], how)
    proof = msgspec.structs.asdict(await prove(context))
    assert {kind: n for kind in ("changed", "missing", "invented", "miscounted") if (n := proof[kind])} == wanted


@quick
@hypothesis.given(st.data())
async def test_any_index_at_all_is_mended(data: st.DataObject) -> None:
    """Entries taken away and put anywhere, counts of anything: afterwards all is as the documents say."""
    context = await blogging(memory_engines())
    await filled(context, 5)
    entries = await places_of(context)
    gone = data.draw(st.lists(st.sampled_from(entries), unique=True))
    filters = st.sampled_from([within for within, _ in entries]) | st.binary(min_size=16, max_size=16)
    ends = st.sampled_from([b"a000", b"a001", b"b", b""])
    at = st.sampled_from([at for _, at in entries]) | st.tuples(st.binary(min_size=1, max_size=20), ends).map(b"".join)
    come = data.draw(st.lists(st.tuples(filters, at), max_size=6))
    listings = [Listing("article", *each, is_gone=True) for each in gone] + [Listing("article", *each) for each in come]
    await context.views.write("article", [], [], listings)
    for count in await context.views.scan(counts_view("article")):
        if (number := data.draw(st.none() | st.integers(-2, 9))) is not None:
            await context.views.write("article", [count._replace(data=b"%d" % number)], [])
    await prove(context)
    assert await is_listed(context)


async def test_what_moves_all_the_time_is_never_taken_for_wrong(engines: Engines) -> None:
    """While articles come, change and go, by two heads, every proof finds nothing, and leaves nothing wrong."""
    context = await blogging(engines)
    await filled(context)
    async with running(head(context).run(), head(context, "b").run()):
        for turn in range(12):
            putting = put(
                context,
                *(write(f"a{n:03}", f"author{(n + turn) % 4}", tags=[f"t{turn % 3}"], likes=turn) for n in range(12)),
                *(write(f"a{n:03}", "" if (turn + n) % 2 else "ann") for n in range(12, 20)),
            )
            proof, _ = await asyncio.gather(prove(context), putting)
            assert (proof.found, proof.mended) == (0, 0)
        await caught_up(context, Reading(context))
    assert await is_listed(context)


async def test_what_is_wrong_is_mended_while_it_moves(engines: Engines) -> None:
    context = await blogging(engines)
    await filled(context)
    async with running(head(context).run()):
        await spoil(context.views, "article", (await places_of(context))[3], "lacks")
        await spoil(context.views, "article", (await places_of(context))[4], "count")
        for turn in range(50):
            await asyncio.gather(prove(context), put(context, *(write(f"b{n}", likes=turn) for n in range(9))))
            if await is_listed(context):
                break
        await caught_up(context, Reading(context))
    assert (await prove(context)).found == 0
    assert await is_listed(context)


async def rebuilt(context: Context, number: int) -> Comparison:
    await ask_for(context, "article")
    await eventually(partial(serves, context, number))
    report = await last_report(context, "article")
    assert report is not None
    return report


async def test_a_rebuild_tells_what_was_wrong_in_the_old_lists_and_ends_it(context: Context) -> None:
    await filled(context)
    await spoil(context.views, "article", (await places_of(context))[0], "elsewhere")
    async with running(head(context).run()):
        report = await rebuilt(context, 2)
        assert report.lists_before is not None
        assert (report.lists_before.changed, report.lists_before.mended) == (1, 0)
        assert report.lists == ListsProof(checked=len(await places_of(context, "article~2")))
        assert (report.changed, report.missing) == (0, 0)
        assert await is_listed(context, "article~2")


async def test_a_new_generation_whose_index_loses_entries_is_mended_before_it_serves(engines: Engines) -> None:
    sound = await blogging(engines)
    await filled(sound)
    losing = await blogging(engines._replace(views=LosingLists(engines.views, every=3)))
    async with running(head(losing).run()):
        await ask_for(losing, "article")
        await eventually(partial(serves_or_holds, losing))
    report = await last_report(sound, "article")
    assert report is not None
    assert report.lists is not None
    assert report.lists.missing > 0
    if report.lacks:  # what was put to mend it was lost as well
        assert "its lists differ from its documents: " in report.lacks
        assert not await serves(sound, 2)
    else:
        assert await is_listed(sound, "article~2")


async def serves_or_holds(context: Context) -> bool:
    report = await last_report(context, "article")
    return report is not None and (bool(report.lacks) or await serves(context, report.new_generation))


async def test_write_heads_mend_lists_by_themselves_and_say_so(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    context = replace(await blogging(engines), timing=msgspec.structs.replace(TIMING, audit_s=0.05))
    await filled(context)
    await spoil(context.views, "article", (await places_of(context))[0], "lacks")
    with caplog.at_level(logging.WARNING, "chimera"):
        async with running(head(context).run()):
            await eventually(partial(is_listed, context))
            await eventually(lambda: said(caplog.messages))


async def said(messages: Sequence[str]) -> bool:
    return any(
        each.startswith("blog: the lists of article were not as its documents: 1 missing; 1") for each in messages
    )


async def test_lists_of_a_view_that_other_code_keeps_are_left_alone(engines: Engines) -> None:
    context = await blogging(engines)
    await filled(context)
    await spoil(context.views, "article", (await places_of(context))[0], "lacks")
    other = await blogging(engines, Blog(order="likes"))
    assert await audit_lists(other, other.service.views["article"]) is None
    assert not await is_listed(context)


async def test_services_in_balance_have_lists_that_are_as_their_documents(context: Context) -> None:
    await filled(context)
    assert await imbalances("blog", {"blog": context}) == []
    await spoil(context.views, "article", (await places_of(context))[0], "lacks")
    assert await imbalances("blog", {"blog": context}) == [
        "the lists of blog/article are not as its documents: 1 missing"
    ]


@pytest.mark.parametrize("engine", REAL)
async def test_an_index_that_was_broken_on_a_real_engine_is_told_and_mended(engine: str) -> None:
    async with real_views(engine, "article") as views:
        context = await blogging(memory_engines()._replace(views=views))
        await filled(context)
        view = context.service.views["article"]
        assert await audit_lists(context, view) == AuditReport(
            "blog", "article", "lists", len(await places_of(context))
        )
        for how in WRONG_KINDS:
            await spoil(views, "article", (await places_of(context))[2], how)
            assert not await is_listed(context)
            report = await audit_lists(context, view)
            assert report is not None
            assert report.found == report.repaired > 0
            assert await is_listed(context), how
        await spoil(views, "article", (await places_of(context))[0], "elsewhere")
        async with running(head(context).run()):
            report_of = await rebuilt(context, 2)
            assert report_of.lists_before is not None
            assert report_of.lists_before.found == 1
            assert await is_listed(context, "article~2")
            page = await Reading(context).get("/authors/author0/articles")
            assert (len(page.keys), page.json["count"]) == (4, 4)
