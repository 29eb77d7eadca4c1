"""The search index in SQLite: FTS5, ranked by bm25."""

from collections.abc import Sequence

from marketplace.search.dialect import Dialect, Indexed

_SCHEMA = [
    """CREATE TABLE IF NOT EXISTS found_gigs (
        number INTEGER PRIMARY KEY, gig_id TEXT NOT NULL UNIQUE, seller_id TEXT NOT NULL,
        title TEXT NOT NULL, category TEXT NOT NULL, price_cents INTEGER NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS found_gigs_of_seller ON found_gigs (seller_id)",
    "CREATE INDEX IF NOT EXISTS found_gigs_of_category ON found_gigs (category)",
    "CREATE TABLE IF NOT EXISTS found_sellers (seller_id TEXT PRIMARY KEY, name TEXT NOT NULL)",
    # Words come folded, with spaces between: this tokenizer splits only ASCII, and so leaves them as they are.
    "CREATE VIRTUAL TABLE IF NOT EXISTS gig_words USING fts5(title, category, seller_name, tokenize='ascii')",
]
_KEEP_SELLERS = """
    INSERT INTO found_sellers (seller_id, name)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?) WHERE true
    ON CONFLICT (seller_id) DO UPDATE SET name = excluded.name WHERE excluded.name <> ''"""
_KEEP_GIGS = """
    INSERT INTO found_gigs (gig_id, seller_id, title, category, price_cents)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
           json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(?) WHERE true
    ON CONFLICT (gig_id) DO UPDATE SET seller_id = excluded.seller_id, title = excluded.title,
        category = excluded.category, price_cents = excluded.price_cents"""
_CHANGED = """
    SELECT number, title, category, coalesce(name, '')
    FROM found_gigs LEFT JOIN found_sellers USING (seller_id) WHERE number IN (
        SELECT number FROM found_gigs WHERE gig_id IN (SELECT value FROM json_each(?))
        UNION SELECT number FROM found_gigs WHERE seller_id IN (SELECT value FROM json_each(?)))"""
_FORGET_WORDS = "DELETE FROM gig_words WHERE rowid IN (SELECT json_extract(value, '$[0]') FROM json_each(?))"
_KEEP_WORDS = """
    INSERT INTO gig_words (rowid, title, category, seller_name)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1][0]'), json_extract(value, '$[1][1]'),
           json_extract(value, '$[1][2]') FROM json_each(?)"""
_MATCHING = """
    (SELECT rowid AS number, -bm25(gig_words, 4.0, 2.0, 1.0) AS score FROM gig_words WHERE gig_words MATCH ?)
    JOIN found_gigs USING (number)"""


def _to_stored(indexed: Indexed) -> list[str]:
    return [" ".join(words) for words in indexed]


def _matching(words: Sequence[str]) -> tuple[str, list[str]]:
    return _MATCHING, [" ".join(f'"{word}"' for word in words) + "*"]


SQLITE = Dialect("?", _SCHEMA, _KEEP_SELLERS, _KEEP_GIGS, _CHANGED, (_FORGET_WORDS, _KEEP_WORDS), _to_stored, _matching)
