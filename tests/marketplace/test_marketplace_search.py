"""Words, and what the page makes of what was found; the index itself: test_marketplace_search_engines.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera import Borrowed, Reader, Transaction
from chimera.entities import Row
from chimera.errors import SettingsError
from chimera.forms import AnyDocument
from chimera.parts import Borrow
from chimera.signature import AnyKey
from marketplace.gig_page.messages import GigPublished
from marketplace.search.index import SCHEMA, index
from marketplace.search.model import LONGEST_WORD, asked_words, words_of
from marketplace.search.service import find

Doc = TypeVar("Doc", bound=AnyDocument)


class Database(Reader, Transaction):
    """Stands for a transaction and for a reader whose owner is down."""

    dialect = "sqlite"

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.borrows: list[Sequence[str]] = []
        for statement in SCHEMA["sqlite"]:
            self.connection.execute(statement)

    async def execute(self, sql: str, *parameters: Any) -> Sequence[Row]:
        return self.connection.execute(sql, parameters).fetchall()

    async def borrowed_many(self, borrow: Borrow[Doc], keys: Sequence[AnyKey]) -> dict[AnyKey, Borrowed[Doc]]:
        self.borrows.append([str(key) for key in keys])
        return dict.fromkeys(keys, Borrowed(None, "absent", None))


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database()
    with closing(database.connection):
        yield database


async def test_a_page_holds_twenty_results_and_borrows_once(database: Database) -> None:
    gigs = [GigPublished(f"g{number:02d}", f"s{number % 3}", "Logo", "Design", 100) for number in range(45)]
    await index(gigs, database)
    pages = [await find(database, q="logo", page=number) for number in (1, 2, 3, 4)]
    assert [len(page.results) for page in pages] == [20, 20, 5, 0]
    assert len({gig.gig_id for page in pages for gig in page.results}) == 45
    assert {(page.total, page.pages) for page in pages} == {(45, 3)}
    assert len(database.borrows) == 4
    assert sorted(database.borrows[0]) == ["s0", "s1", "s2"]
    assert pages[0].results[0].seller_name is None


async def test_a_store_without_sql_is_refused_with_what_to_do(database: Database) -> None:
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
def test_text_becomes_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_a_question_has_sixteen_words_at_most() -> None:
    assert asked_words("a b " * 50) == ["a", "b"] * 8


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_words_are_letters_and_digits_and_stay_the_same_words(text: str) -> None:
    words = words_of(text)
    assert all(word.isalnum() and len(word) <= LONGEST_WORD for word in words)
    assert words_of(" ".join(words)) == words
