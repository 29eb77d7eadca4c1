import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera import Borrowed
from marketplace.gig_page.messages import GigPublished
from marketplace.search.index import SCHEMA, find_gigs, index
from marketplace.search.model import match_expression
from marketplace.search.service import find
from marketplace.user_page.messages import UserChanged


class Database:
    """Stands for a transaction and for a reader whose owner is down."""

    def __init__(self):
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.borrows = []
        for statement in SCHEMA["sqlite"] * 2:
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


def gig(gig_id, title, category="Design", seller="s", price=100):
    return GigPublished(gig_id, seller, title, category, price)


async def ids(database, text="", category="", page=1):
    _, hits = await find_gigs(database, text, category, page)
    return [hit.gig_id for hit in hits]


async def test_gigs_are_found_by_words_of_title_category_and_seller_the_last_as_a_prefix(database):
    gigs = [gig("a", "A café logo"), gig("b", "Web shop", "web_development", "t")]
    await index([*gigs, UserChanged("t", "Zoë Demir")], database)
    assert await ids(database, "CAFE") == ["a"]
    assert await ids(database, "café lo") == ["a"]
    assert await ids(database, "caf logo") == []
    assert await ids(database, "development") == ["b"]
    assert await ids(database, "zoe") == ["b"]
    assert await ids(database, "nothing") == []


async def test_without_words_the_newest_come_first_and_only_punctuation_finds_nothing(database):
    await index([gig("a", "One"), gig("b", "Two", "Music")], database)
    await index([gig("a", "One again")], database)
    assert await ids(database) == ["b", "a"]
    assert await ids(database, "  ") == ["b", "a"]
    assert await ids(database, "", "Music") == ["b"]
    assert await ids(database, "one", "Music") == []
    assert await find_gigs(database, "!?", "", 1) == (0, [])


async def test_changes_of_gigs_and_names_replace_what_was_found_before(database):
    await index([gig("a", "Old title"), UserChanged("s", "Ada"), UserChanged("s", "Ada Lovelace")], database)
    await index([gig("a", "New title", seller="t")], database)
    assert (await ids(database, "old"), await ids(database, "lovelace"), await ids(database, "new")) == ([], [], ["a"])
    await index([UserChanged("t", "Grace")], database)
    assert await ids(database, "grace") == ["a"]


async def test_the_same_batch_twice_changes_nothing(database):
    batch = [gig("a", "Logo"), UserChanged("s", "Ada")]
    await index(batch, database)
    await index(batch, database)
    assert await find_gigs(database, "logo", "", 1) == (1, [("a", "Logo", "Design", 100, "s", "Ada")])


async def test_a_page_holds_twenty_results_and_borrows_once(database):
    await index([gig(f"g{number:02d}", "Logo", seller=f"s{number % 3}") for number in range(45)], database)
    pages = [await find(database, q="logo", page=number) for number in (1, 2, 3, 4)]
    assert [len(page.results) for page in pages] == [20, 20, 5, 0]
    assert len({gig.gig_id for page in pages for gig in page.results}) == 45
    assert {(page.total, page.pages) for page in pages} == {(45, 3)}
    assert len(database.borrows) == 4
    assert sorted(database.borrows[0]) == ["s0", "s1", "s2"]
    assert pages[0].results[0].seller_name is None


def test_words_are_quoted_and_the_last_is_a_prefix():
    assert match_expression('logo "OR" NEAR(a') == '"logo" "OR" "NEAR" "a"*'
    assert match_expression("") is match_expression(" ") is match_expression('"*_-') is None


@given(st.text(max_size=60) | st.text("\"'*()^:-+ANDORNOTEAR{}\x00_ ", max_size=30))
def test_whatever_people_type_is_never_a_syntax_error(text):
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(SCHEMA["sqlite"][-1])
        expression = match_expression(text)
        if expression is not None:
            connection.execute("SELECT count(*) FROM gig_words WHERE gig_words MATCH ?", (expression,)).fetchall()
