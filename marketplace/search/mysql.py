"""The search index in MySQL and MariaDB: a table of words.

Their full-text index can't find what the others find: it passes over words of one or two letters, stop words and
words beyond a length, as settings of the whole server say, and cuts words by rules of its own.
"""

import sys
from collections.abc import Sequence
from typing import Any

from marketplace.search.dialect import Dialect, Indexed
from marketplace.search.model import LONGEST_WORD

# Both know this collation. It passes over spaces at the end, which ids and words do not have.
_EXACT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_SCHEMA = [
    f"""CREATE TABLE IF NOT EXISTS found_gigs (
        number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, gig_id VARCHAR(255) NOT NULL UNIQUE,
        seller_id VARCHAR(255) NOT NULL, title TEXT NOT NULL, category VARCHAR(255) NOT NULL,
        price_cents BIGINT NOT NULL, KEY (seller_id), KEY (category)) ENGINE = InnoDB {_EXACT}""",
    f"""CREATE TABLE IF NOT EXISTS found_sellers (
        seller_id VARCHAR(255) PRIMARY KEY, name TEXT NOT NULL) ENGINE = InnoDB {_EXACT}""",
    f"""CREATE TABLE IF NOT EXISTS found_words (
        word VARCHAR({LONGEST_WORD}), number BIGINT, weight INT NOT NULL,
        PRIMARY KEY (word, number), KEY (number)) ENGINE = InnoDB {_EXACT}""",
]
_WEIGHTS = (4, 2, 1)
_LAST_CHARACTER = chr(sys.maxunicode)

_ID = "VARCHAR(255) CHARACTER SET utf8mb4"
_TEXT = "TEXT CHARACTER SET utf8mb4"
_KEEP_SELLERS = f"""
    INSERT INTO found_sellers (seller_id, name)
    SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (id {_ID} PATH '$[0]', called {_TEXT} PATH '$[1]')) AS given
    ON DUPLICATE KEY UPDATE name = if(called = '', name, called)"""  # noqa: S608 - made of constants
_KEEP_GIGS = f"""
    INSERT INTO found_gigs (gig_id, seller_id, title, category, price_cents)
    SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (
        id {_ID} PATH '$[0]', seller {_ID} PATH '$[1]', called {_TEXT} PATH '$[2]', kind {_TEXT} PATH '$[3]',
        cents BIGINT PATH '$[4]')) AS given
    ON DUPLICATE KEY UPDATE seller_id = seller, title = called, category = kind, price_cents = cents"""  # noqa: S608 - made of constants
_IDS = f"JSON_TABLE(?, '$[*]' COLUMNS (id {_ID} PATH '$')) AS given"
_CHANGED = f"""
    SELECT number, title, category, coalesce(name, '') FROM found_gigs LEFT JOIN found_sellers USING (seller_id) JOIN (
        SELECT number FROM {_IDS} STRAIGHT_JOIN found_gigs ON gig_id = id COLLATE utf8mb4_bin
        UNION SELECT number FROM {_IDS} STRAIGHT_JOIN found_gigs ON seller_id = id COLLATE utf8mb4_bin
    ) AS changed USING (number)"""  # noqa: S608 - made of constants
_FORGET_WORDS = """
    DELETE kept FROM JSON_TABLE(?, '$[*]' COLUMNS (number BIGINT PATH '$[0]')) AS given
    STRAIGHT_JOIN found_words AS kept ON kept.number = given.number"""
_KEEP_WORDS = f"""
    INSERT INTO found_words (number, word, weight)
    SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (number BIGINT PATH '$[0]', NESTED PATH '$[1][*]' COLUMNS (
        word {_TEXT} PATH '$[0]', weight INT PATH '$[1]'))) AS given WHERE word IS NOT NULL"""  # noqa: S608 - made of constants

_WITH_WORD = "SELECT number, weight FROM found_words WHERE word = ?"
# LIKE would leave out letters beyond U+FFFF.
_WITH_PREFIX = "SELECT number, max(weight) AS weight FROM found_words WHERE word BETWEEN ? AND ? GROUP BY number"
_MATCHING = """
    (SELECT number, sum(weight) AS score FROM ({}) AS having_one GROUP BY number HAVING count(*) = {}) AS matching
    JOIN found_gigs USING (number)"""


def _to_stored(indexed: Indexed) -> list[tuple[str, int]]:
    weights: dict[str, int] = {}
    for words, weight in zip(indexed, _WEIGHTS, strict=True):
        for word in set(words):
            weights[word] = weights.get(word, 0) + weight
    return list(weights.items())


def _matching(words: Sequence[str]) -> tuple[str, list[Any]]:
    *whole, last = words
    wanted = list(dict.fromkeys(whole))
    having_one = " UNION ALL ".join([_WITH_WORD] * len(wanted) + [_WITH_PREFIX])
    return _MATCHING.format(having_one, len(wanted) + 1), [*wanted, last, last + _LAST_CHARACTER]


MYSQL = Dialect("%s", _SCHEMA, _KEEP_SELLERS, _KEEP_GIGS, _CHANGED, (_FORGET_WORDS, _KEEP_WORDS), _to_stored, _matching)
