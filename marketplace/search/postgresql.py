"""The search index in PostgreSQL: a tsvector with a GIN index, ranked by ts_rank.

Vectors and questions are cast from text that is made of words already. The parser would cut them again, in
its own way (`3.5`, `a/b`) and by the database's locale.
"""

from collections.abc import Sequence
from itertools import count

from marketplace.search.dialect import Dialect, Indexed

_SCHEMA = [
    """CREATE TABLE IF NOT EXISTS found_gigs (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gig_id text NOT NULL UNIQUE, seller_id text NOT NULL,
        title text NOT NULL, category text NOT NULL, price_cents bigint NOT NULL,
        words tsvector NOT NULL DEFAULT '')""",
    "CREATE INDEX IF NOT EXISTS found_gigs_of_seller ON found_gigs (seller_id)",
    "CREATE INDEX IF NOT EXISTS found_gigs_of_category ON found_gigs (category)",
    # With fastupdate, every search would read the changes that are not in the index yet.
    "CREATE INDEX IF NOT EXISTS found_gigs_words ON found_gigs USING gin (words) WITH (fastupdate = off)",
    "CREATE TABLE IF NOT EXISTS found_sellers (seller_id text PRIMARY KEY, name text NOT NULL)",
]
_KEEP_SELLERS = """
    INSERT INTO found_sellers (seller_id, name)
    SELECT given->>0, given->>1 FROM json_array_elements(CAST(? AS json)) AS given
    ON CONFLICT (seller_id) DO UPDATE SET name = coalesce(nullif(excluded.name, ''), found_sellers.name)"""
_KEEP_GIGS = """
    INSERT INTO found_gigs (gig_id, seller_id, title, category, price_cents)
    SELECT given->>0, given->>1, given->>2, given->>3, CAST(given->>4 AS bigint)
    FROM json_array_elements(CAST(? AS json)) AS given
    ON CONFLICT (gig_id) DO UPDATE SET seller_id = excluded.seller_id, title = excluded.title,
        category = excluded.category, price_cents = excluded.price_cents"""
_CHANGED = """
    SELECT number, title, category, coalesce(name, '')
    FROM found_gigs LEFT JOIN found_sellers USING (seller_id) WHERE number IN (
        SELECT number FROM found_gigs WHERE gig_id IN (SELECT json_array_elements_text(CAST(? AS json)))
        UNION SELECT number FROM found_gigs WHERE seller_id IN (SELECT json_array_elements_text(CAST(? AS json))))"""
_KEEP_WORDS = """
    UPDATE found_gigs SET words = CAST(given->>1 AS tsvector)
    FROM json_array_elements(CAST(? AS json)) AS given WHERE number = CAST(given->>0 AS bigint)"""
# The weights of D, C, B and A.
_MATCHING = """
    (SELECT found_gigs.*, ts_rank('{0, 0.25, 0.5, 1}', words, asked) AS score
     FROM found_gigs, CAST(? AS tsquery) AS asked WHERE words @@ asked) AS matching"""


def _to_stored(indexed: Indexed) -> str:
    place = count(1)
    fields = zip(indexed, "ABC", strict=True)
    return " ".join(f"'{word}':{next(place)}{weight}" for words, weight in fields for word in words)


def _matching(words: Sequence[str]) -> tuple[str, list[str]]:
    return _MATCHING, [" & ".join(f"'{word}'" for word in words) + ":*"]


POSTGRESQL = Dialect("${}", _SCHEMA, _KEEP_SELLERS, _KEEP_GIGS, _CHANGED, (_KEEP_WORDS,), _to_stored, _matching)
