"""The search index finds the same on every engine that can be a service's source of truth."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chimera import Event, Reads, Transaction
from chimera.messages import Message
from chimera.ports import Store
from chimera.run.engines import open_engine
from chimera.transaction import Unit
from marketplace.gig_page.messages import GigPublished
from marketplace.search.index import Hit, find_gigs, index
from marketplace.search.model import asked_words, words_of
from marketplace.search.service import search
from marketplace.user_page.messages import UserChanged
from tests.support import TIME

TABLES = {
    "sqlite": ("found_gigs", "found_sellers", "gig_words"),
    "postgresql": ("found_gigs", "found_sellers"),
    "mysql": ("found_gigs", "found_sellers", "found_words"),
}
LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)


class Index:
    """The index in a store, empty at first."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def open(self) -> None:
        await self.store.create([], search.partitions, search.statements)
        async with self.writing() as tx:
            for table in TABLES[tx.dialect]:
                await tx.execute(f"DELETE FROM {table}")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Transaction]:
        async with self.store.transaction() as session:
            yield Transaction(Unit(search, session), Message("batch", "search", "", "", TIME, b"", 0))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reads]:
        async with self.store.snapshot() as session:
            yield Reads(search, session)

    async def add(self, *events: Event) -> None:
        async with self.writing() as tx:
            await index(events, tx)

    async def find(self, text: str = "", category: str = "", page: int = 1) -> tuple[int, list[Hit]]:
        async with self.reading() as read:
            return await find_gigs(read, text, category, page)

    async def ids(self, text: str = "", category: str = "", page: int = 1) -> list[str]:
        _, hits = await self.find(text, category, page)
        return [hit.gig_id for hit in hits]


@pytest.fixture
async def found(store: Store) -> Index:
    index = Index(store)
    await index.open()
    return index


def gig(
    gig_id: str, title: str, category: str = "Design", seller: str = "s", price: int = 100, before: str | None = None
) -> GigPublished:
    return GigPublished(gig_id, seller, title, category, price, before)


def is_found(fields: Sequence[str], text: str) -> bool:
    """What every engine has to answer: each word is there, and one that begins with the last. Blank: everything."""
    if not asked_words(text):
        return not text.strip()
    *whole, last = asked_words(text)
    words = [word for field in fields for word in words_of(field)]
    return set(whole) <= set(words) and any(word.startswith(last) for word in words)


async def test_words_of_title_category_and_seller_are_found_the_last_as_a_prefix(found: Index) -> None:
    await found.add(
        gig("a", "A café logo"), gig("b", "Web shop", "web_development", "t"), UserChanged("t", "Zoë Demir")
    )
    assert await found.ids("café lo") == ["a"]
    assert await found.ids("lo café") == []
    assert await found.ids("caf logo") == []
    assert await found.ids("logo cafe") == ["a"]
    assert await found.ids("development") == ["b"]
    assert await found.ids("shop zoe web") == ["b"]
    assert await found.ids("nothing") == []


@pytest.mark.parametrize(
    ("title", "asked"),
    [
        ("Curso de informática", "informatica"),
        ("Curso de informatica", "INFORMÁTICA"),
        ("Decoração e iluminação", "decoracao iluminaca"),
        ("Cafe\u0301 com leite", "café"),
        ("Straße", "STRASSE"),
        ("Σίσυφος", "σισυφοσ"),
        ("ЁЛКА в лесу", "елка в"),
        ("İstanbul", "istanbul"),
        ("漢字の本", "漢字"),
        ("𐐀𐐁 shop", "𐐨"),
        ("한국어 수업", "한국"),
    ],
)
async def test_accents_and_capitals_make_no_difference_in_any_alphabet(found: Index, title: str, asked: str) -> None:
    await found.add(gig("a", title), gig("b", "Another thing"))
    assert await found.ids(asked) == ["a"]


@pytest.mark.parametrize("word", ["a", "of", "to", "the", "and", "não", "c", "3", "3d", "2024", "1e5", "été"])
async def test_short_words_numbers_and_stop_words_are_found(found: Index, word: str) -> None:
    await found.add(gig("a", f"Logo {word} shop"), gig("b", "Logo shop"))
    assert await found.ids(f"{word} logo") == ["a"]
    assert await found.ids(f"logo {word}") == ["a"]


PUNCTUATED = ["C++ & C#", "3.5 mm jack", "state-of-the-art", "me@example.com", "http://a.b/c", '100% "new"', "a_b's"]


@pytest.mark.parametrize("title", PUNCTUATED)
async def test_punctuation_parts_words_and_is_no_part_of_them(found: Index, title: str) -> None:
    await found.add(gig("a", title), gig("b", "Logo"))
    assert await found.ids(title) == ["a"]
    assert await found.ids(" ".join(words_of(title))) == ["a"]


OPERATORS = r"""
logo AND shop | logo OR shop | NOT logo | logo NOT shop | logo NEAR shop | NEAR(logo shop, 2) | logo* | *logo | lo*go
"logo shop" | "logo | logo' | 'logo':* | logo:A | +logo | -logo | ~logo | logo -shop | (logo) | (logo | logo) ( | @logo
logo @4 | <logo | >logo | logo <-> shop | logo & shop | !logo | % | lo% | l_go | logo%shop | title:logo | {title}: logo
^logo | \ | logo\ | logo\' | logo;-- | ? | $1 | %s | {} | $[0] | /* logo */
"""
ASKED = [
    *(line for lines in OPERATORS.splitlines() for line in lines.split(" | ")),
    "a|b",
    "logo\x00shop",
    "logo\ttitle",
]


async def test_operators_mean_nothing(found: Index) -> None:
    titles = [
        "Logo and shop",
        "Logo",
        "Shop",
        "Not a logo",
        "Near the shop",
        "Logo or title",
        "l go",
        "lo go",
        "a 4 s 1",
    ]
    await found.add(*(gig(title.replace(" ", "_"), title, "x") for title in titles))
    async with found.reading() as read:
        for text in ASKED:
            total, hits = await find_gigs(read, text, "", 1)
            expected = {title for title in titles if is_found([title, "x"], text)}
            assert ({hit.title for hit in hits}, total) == (expected, len(expected)), text


async def test_without_words_the_newest_come_first_and_only_punctuation_finds_nothing(found: Index) -> None:
    await found.add(gig("a", "One"), gig("b", "Two", "Music"))
    await found.add(gig("c", "Three", "Music"))
    await found.add(gig("a", "One again"))
    assert await found.ids() == await found.ids(" \t ") == ["c", "b", "a"]
    for text in ("!?", "...", "_", '"', "*", "%", "-", "()", "🦁", "\u0301"):
        assert await found.find(text) == (0, []), text


async def test_long_words_and_long_texts_are_found(found: Index) -> None:
    long, longer = "x" * 199, "y" * 100
    await found.add(gig("a", long), gig("b", f"{longer} {longer[:50]}z"), gig("c", "ab " * 66))
    assert await found.ids(long) == await found.ids(long[:30]) == await found.ids(f"{long} {long[:90]}") == ["a"]
    assert await found.ids(f"{longer} yyy") == ["b"]
    assert await found.ids("w" * 200) == []
    assert await found.ids("ab " * 66) == await found.ids("ab ab a") == ["c"]
    assert await found.ids("a " * 100) == []
    assert await found.ids("é" * 200) == []


async def test_a_category_narrows_what_is_found_exactly(found: Index) -> None:
    categories = ("Music", "music", "Music ", "Mus%", "Músic")
    await found.add(*(gig(f"g{number}", "Logo", category) for number, category in enumerate(categories)))
    for number, category in enumerate(categories):
        assert await found.find("logo", category) == (1, [(f"g{number}", "Logo", category, 100, "s", None)])
        assert await found.ids("", category) == [f"g{number}"]
    assert await found.find("logo", "Mus") == await found.find("", " ") == await found.find("x", "Music") == (0, [])


async def test_changes_of_gigs_and_names_replace_what_was_found_before(found: Index) -> None:
    await found.add(gig("a", "Old title"), UserChanged("s", "Ada"), UserChanged("s", "Ada Lovelace"))
    await found.add(gig("a", "New title", "Music", seller="t", price=7, before="s"))
    for gone in ("old", "lovelace", "design"):
        assert await found.ids(gone) == []
    await found.add(UserChanged("t", "Grace"))
    await found.add(UserChanged("t", "Grace Hopper"), UserChanged("s", "Nobody"))
    assert await found.find("hopper new mus") == (1, [("a", "New title", "Music", 7, "t", "Grace Hopper")])
    assert await found.ids("nobody") == []
    await found.add(gig("a", "!", "?", seller="u", before="t"))
    assert await found.ids("new") == await found.ids("grace") == []
    assert await found.find() == (1, [("a", "!", "?", 100, "u", None)])


async def test_a_name_that_comes_before_the_first_gig_is_kept(found: Index) -> None:
    await found.add(UserChanged("s", "Ada"))
    await found.add(gig("a", "Logo"))
    assert await found.find("ada") == (1, [("a", "Logo", "Design", 100, "s", "Ada")])


async def test_the_same_batch_twice_changes_nothing(found: Index) -> None:
    batch = [gig("a", "Logo"), UserChanged("s", "Ada"), gig("b", "Shop")]
    await found.add(*batch)
    once = await found.find("a"), await found.find()
    await found.add(*batch)
    assert (await found.find("a"), await found.find()) == once


async def test_title_is_worth_more_than_category_and_category_more_than_the_sellers_name(found: Index) -> None:
    others = [gig(f"o{number}", "Poster", "Print", "o") for number in range(5)]
    await found.add(
        gig("by-name", "Website", "Programming", "l"),
        UserChanged("l", "Logo"),
        gig("by-title", "Logo", "Programming"),
        gig("by-category", "Website", "Logo"),
        *others,
    )
    assert await found.ids("logo") == await found.ids("LO") == ["by-title", "by-category", "by-name"]


async def test_of_equal_ones_the_newest_come_first(found: Index) -> None:
    await found.add(gig("a", "Logo"))
    await found.add(gig("b", "Logo"))
    assert await found.ids("logo") == ["b", "a"]


async def test_pages_hold_twenty_and_every_gig_once(found: Index) -> None:
    await found.add(*(gig(f"g{number:02d}", "Logo") for number in range(45)), gig("other", "Shop"))
    for text, total in (("logo", 45), ("", 46)):
        pages = [await found.find(text, "", page) for page in (1, 2, 3, 4, 1000)]
        assert [len(hits) for _, hits in pages] == [20, 20, total - 40, 0, 0]
        assert {count for count, _ in pages} == {total}
        assert len({hit.gig_id for _, hits in pages for hit in hits}) == total


async def test_a_name_is_changed_for_every_gig_of_a_batch_of_many(found: Index) -> None:
    await found.add(*(gig(f"g{number}", f"Logo n{number}", f"c{number % 7}") for number in range(500)))
    await found.add(UserChanged("s", "Ada Lovelace"))
    assert (await found.find("lovelace"))[0] == 500
    assert await found.ids("n77 lovelace") == ["g77"]


async def test_what_was_rolled_back_is_not_found(found: Index) -> None:
    await found.add(gig("a", "Logo"))

    async def fail() -> None:
        async with found.writing() as tx:
            await index([gig("a", "Shop"), gig("b", "Logo")], tx)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await found.ids("logo") == ["a"]
    assert await found.ids("shop") == []


RENAMED, PUBLISHED, MOVED = UserChanged("s", "Ada"), gig("a", "Logo"), gig("b", "Shop", seller="t", before="s")


@pytest.mark.parametrize(
    ("first", "second"),
    [*itertools.permutations((RENAMED, PUBLISHED), 2), *itertools.permutations((RENAMED, MOVED), 2)],
    ids=["name then gig", "gig then name", "name then move", "move then name"],
)
async def test_a_gig_and_its_sellers_name_that_change_at_the_same_time_see_each_other(
    found: Index, first: Event, second: Event
) -> None:
    await found.add(gig("b", "Shop"))
    async with found.writing() as tx:
        await index([first], tx)
        waiting = asyncio.create_task(found.add(second))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
    await waiting
    moved = MOVED in (first, second)
    assert sorted(await found.ids("ada")) == ([] if moved else ["a", "b"])


async def test_hundreds_of_questions_find_what_they_have_to(found: Index) -> None:
    chance = random.Random(7)
    words = [
        "logo",
        "lo",
        "l",
        "a",
        "the",
        "of",
        "café",
        "Cafe",
        "cafeteria",
        "não",
        "São",
        "3",
        "3d",
        "c",
        "İ",
        "Straße",
        "漢字",
    ]
    signs = [" ", " ", " ", "-", "/", "'", '"', "*", "+", "_", "\u0301 ", "%", ":"]

    def text(most: int) -> str:
        return "".join(chance.choice(words) + chance.choice(signs) for _ in range(chance.randint(1, most)))

    gigs = {f"g{number}": (text(5), text(2), str(number % 4)) for number in range(60)}
    names = {seller: text(2) for seller in ("0", "1", "2", "3")}
    await found.add(*(UserChanged(*each) for each in names.items()))
    await found.add(*(gig(gig_id, title, category, seller) for gig_id, (title, category, seller) in gigs.items()))
    async with found.reading() as read:
        for _ in range(200):
            asked = text(3)
            expected = {
                gig_id
                for gig_id, (title, kind, seller) in gigs.items()
                if is_found([title, kind, names[seller]], asked)
            }
            total, hits = await find_gigs(read, asked, "", 1)
            answered = {hit.gig_id for hit in hits}
            assert (total, len(hits)) == (len(expected), min(total, 20)), asked
            assert answered <= expected, asked


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(title=LINES, category=LINES, name=LINES, asked=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example("ﬁne ™ ½ Ⅳ ² ª", "ⓐ", "ᾳ ŉ", "ﬁne ½ ²")
@example("कि कु", "ก็", "שלום", "कि")
@example("x", "x", "x", "x\x00y")
async def test_whatever_people_write_is_found_by_its_words_and_is_never_an_error(
    found: Index, title: str, category: str, name: str, asked: str
) -> None:
    await found.add(gig("g", title, category), UserChanged("s", name))
    async with found.reading() as read:
        for text in (title, category, name, asked):
            total, hits = await find_gigs(read, text, "", 1)
            expected = is_found([title, category, name], text)
            assert (total, [hit[:3] for hit in hits]) == ((1, [("g", title, category)]) if expected else (0, []))


async def test_the_schema_is_made_again_without_harm(found: Index, store_url: str) -> None:
    await found.add(gig("a", "Logo"))
    again = open_engine("store", store_url)
    await again.create([], search.partitions, search.statements)
    assert await Index(again).ids("logo") == ["a"]
    await again.close()
