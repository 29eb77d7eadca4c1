"""Words, and what the page makes of what was found; the index itself: test_marketplace_search_engines.py."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera import Borrowed
from chimera.errors import SettingsError
from marketplace.gig_page.messages import GigPublished
from marketplace.search.index import SCHEMA, index
from marketplace.search.model import LONGEST_WORD, asked_words, words_of
from marketplace.search.service import find


class Database:
    """Stands for a transaction and for a reader whose owner is down."""

    dialect = "sqlite"

    def __init__(self):
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.borrows = []
        for statement in SCHEMA["sqlite"]:
            self.connection.execute(statement)

    async def execute(self, sql, *parameters):
        return self.connection.execute(sql, parameters).fetchall()

    async def borrowed_many(self, borrow, keys):
        self.borrows.append(keys)
        return dict.fromkeys(keys, Borrowed(None, "absent", None))


@pytest.fixture
def database():
    database = Database()
    with closing(database.connection):
        yield database


async def test_a_page_holds_twenty_results_and_borrows_once(database):
    gigs = [GigPublished(f"g{number:02d}", f"s{number % 3}", "Logo", "Design", 100) for number in range(45)]
    await index(gigs, database)
    pages = [await find(database, q="logo", page=number) for number in (1, 2, 3, 4)]
    assert [len(page.results) for page in pages] == [20, 20, 5, 0]
    assert len({gig.gig_id for page in pages for gig in page.results}) == 45
    assert {(page.total, page.pages) for page in pages} == {(45, 3)}
    assert len(database.borrows) == 4
    assert sorted(database.borrows[0]) == ["s0", "s1", "s2"]
    assert pages[0].results[0].seller_name is None


async def test_a_store_without_sql_is_refused_with_what_to_do(database):
    database.dialect = ""
    with pytest.raises(SettingsError, match="needs a store that speaks SQL: sqlite, postgresql, mysql"):
        await find(database)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Informática", ["informatica"]),
        ("Informa\u0301tica", ["informatica"]),
        ("C++ & web_development", ["c", "web", "development"]),
        ('logo "OR" NEAR(a', ["logo", "or", "near", "a"]),
        ("3.5\u00a0mm", ["3", "5", "mm"]),
        ("Straße", ["strasse"]),
        ("x" * 200, ["x" * LONGEST_WORD]),
        ('"*_-\u0301🦁', []),
        ("", []),
    ],
)
def test_text_becomes_words(text, words):
    assert words_of(text) == words


def test_a_question_has_sixteen_words_at_most():
    assert asked_words("a b " * 50) == ["a", "b"] * 8


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_words_are_letters_and_digits_and_stay_the_same_words(text):
    words = words_of(text)
    assert all(word.isalnum() and len(word) <= LONGEST_WORD for word in words)
    assert words_of(" ".join(words)) == words
