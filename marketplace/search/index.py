"""The search index, in SQLite's own SQL. A batch of events is folded first and written in four statements."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from chimera import Event, Reads, Transaction
from marketplace.gig_page.messages import GigPublished
from marketplace.search.model import PAGE_SIZE, match_expression
from marketplace.user_page.messages import UserChanged

SCHEMA = {
    "sqlite": [
        """CREATE TABLE IF NOT EXISTS found_gigs (
            number INTEGER PRIMARY KEY, gig_id TEXT NOT NULL UNIQUE, seller_id TEXT NOT NULL,
            title TEXT NOT NULL, category TEXT NOT NULL, price_cents INTEGER NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS found_gigs_of_seller ON found_gigs (seller_id)",
        "CREATE INDEX IF NOT EXISTS found_gigs_of_category ON found_gigs (category)",
        "CREATE TABLE IF NOT EXISTS found_sellers (seller_id TEXT PRIMARY KEY, name TEXT NOT NULL)",
        """CREATE VIRTUAL TABLE IF NOT EXISTS gig_words USING fts5(
            title, category, seller_name, tokenize='unicode61 remove_diacritics 2')""",
    ]
}

_KEEP_SELLERS = """
    INSERT INTO found_sellers (seller_id, name)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?) WHERE true
    ON CONFLICT (seller_id) DO UPDATE SET name = excluded.name"""
_KEEP_GIGS = """
    INSERT INTO found_gigs (gig_id, seller_id, title, category, price_cents)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
           json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(?) WHERE true
    ON CONFLICT (gig_id) DO UPDATE SET seller_id = excluded.seller_id, title = excluded.title,
        category = excluded.category, price_cents = excluded.price_cents"""
_CHANGED = """
    SELECT number FROM found_gigs WHERE gig_id IN (SELECT value FROM json_each(?))
    UNION SELECT number FROM found_gigs WHERE seller_id IN (SELECT value FROM json_each(?))"""
_FORGET_WORDS = f"DELETE FROM gig_words WHERE rowid IN ({_CHANGED})"  # noqa: S608 - made of constants
_KEEP_WORDS = f"""
    INSERT INTO gig_words (rowid, title, category, seller_name)
    SELECT number, title, category, coalesce(name, '')
    FROM found_gigs LEFT JOIN found_sellers USING (seller_id) WHERE number IN ({_CHANGED})"""  # noqa: S608 - made of constants

_HITS = """
    SELECT gig_id, title, category, price_cents, seller_id, name
    FROM {gigs} LEFT JOIN found_sellers USING (seller_id)
    WHERE ? IN ('', category) ORDER BY {order} LIMIT ? OFFSET ?"""
_COUNT = "SELECT count(*) FROM {gigs} WHERE ? IN ('', category)"
_MATCHING = """
    (SELECT rowid AS number, bm25(gig_words, 4.0, 2.0, 1.0) AS distance FROM gig_words WHERE gig_words MATCH ?)
    JOIN found_gigs USING (number)"""
_BEST = _HITS.format(gigs=_MATCHING, order="distance, number DESC"), _COUNT.format(gigs=_MATCHING)
_NEWEST = _HITS.format(gigs="found_gigs", order="number DESC"), _COUNT.format(gigs="found_gigs")


class Hit(NamedTuple):
    gig_id: str
    title: str
    category: str
    price_cents: int
    seller_id: str
    seller_name: str | None


async def index(events: Sequence[Event], tx: Transaction) -> None:
    gigs = {event.gig_id: event for event in events if isinstance(event, GigPublished)}
    names = {event.user_id: event.name for event in events if isinstance(event, UserChanged)}
    rows = [(gig.gig_id, gig.seller_id, gig.title, gig.category, gig.price_cents) for gig in gigs.values()]
    await tx.execute(_KEEP_SELLERS, _json(list(names.items())))
    await tx.execute(_KEEP_GIGS, _json(rows))
    await tx.execute(_FORGET_WORDS, _json(list(gigs)), _json(list(names)))
    await tx.execute(_KEEP_WORDS, _json(list(gigs)), _json(list(names)))


async def find_gigs(read: Reads, text: str, category: str, page: int) -> tuple[int, list[Hit]]:
    """How many gigs match, and one page of them: the best first; without words, the newest first."""
    expression = match_expression(text)
    if expression is None and text.strip():
        return 0, []
    hits, count = _NEWEST if expression is None else _BEST
    given = [category] if expression is None else [expression, category]
    total = await read.execute(count, *given)
    rows = await read.execute(hits, *given, PAGE_SIZE, (page - 1) * PAGE_SIZE)
    return int(total[0][0]), [Hit(*row) for row in rows]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
