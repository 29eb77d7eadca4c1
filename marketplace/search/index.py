"""The search index: words are made here, so that every engine finds the same; each keeps them in its own way."""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import msgspec

from chimera import Event, Reads, Transaction
from chimera.errors import SettingsError
from marketplace.gig_page.messages import GigPublished
from marketplace.search.dialect import Dialect
from marketplace.search.model import PAGE_SIZE, asked_words, words_of
from marketplace.search.mysql import MYSQL
from marketplace.search.postgresql import POSTGRESQL
from marketplace.search.sqlite import SQLITE
from marketplace.user_page.messages import UserChanged

DIALECTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "mysql": MYSQL}
TABLES = ("found_gigs", "found_sellers", "found_words", "gig_words")
NUMBERED = ("found_words",)
"""Those that know gigs by the numbers that engines give to them."""
SCHEMA = {name: dialect.schema for name, dialect in DIALECTS.items()}

_HITS = """
    SELECT gig_id, title, category, price_cents, seller_id, nullif(name, '')
    FROM {} LEFT JOIN found_sellers USING (seller_id) WHERE {} ORDER BY {} LIMIT ? OFFSET ?"""
_COUNT = "SELECT count(*) FROM {} WHERE {}"
# The length, because to MySQL spaces at the end make no difference.
_OF_CATEGORY = "category = ? AND length(category) = length(?)"


class Hit(NamedTuple):
    gig_id: str
    title: str
    category: str
    price_cents: int
    seller_id: str
    seller_name: str | None


async def index(events: Sequence[Event], tx: Transaction) -> None:
    """Fold a batch and write it in a few statements.

    Sellers come first, in order: their rows are locked, so that of a gig and its seller's name, changed at the
    same time in two transactions, the second to come sees the first.
    """
    dialect = _dialect_of(tx)
    gigs = {event.gig_id: event for event in events if isinstance(event, GigPublished)}
    named = {event.user_id: event.name for event in events if isinstance(event, UserChanged)}
    concerned = {seller for event in events if isinstance(event, GigPublished) for seller in event.seller_ids}
    names = sorted((dict.fromkeys(concerned, "") | named).items())
    rows = [(gig.gig_id, gig.seller_id, gig.title, gig.category, gig.price_cents) for gig in gigs.values()]
    await tx.execute(_marked(dialect, dialect.keep_sellers), _json(names))
    await tx.execute(_marked(dialect, dialect.keep_gigs), _json(rows))
    changed = await tx.execute(_marked(dialect, dialect.changed), _json(list(gigs)), _json(list(named)))
    words = [
        (number, dialect.to_stored((words_of(title), words_of(category), words_of(name))))
        for number, title, category, name in changed
    ]
    for statement in dialect.keep_words:
        await tx.execute(_marked(dialect, statement), _json(words))


async def find_gigs(read: Reads, text: str, category: str, page: int) -> tuple[int, list[Hit]]:
    """How many gigs match, and one page of them: the best first; without words, the newest first."""
    dialect = _dialect_of(read)
    words = asked_words(text)
    if not words and text.strip():
        return 0, []
    gigs, given = dialect.matching(words) if words else ("found_gigs", [])
    order = "score DESC, number DESC" if words else "number DESC"
    condition = _OF_CATEGORY if category else "true"
    given = [*given, category, category] if category else given
    total = await read.execute(_marked(dialect, _COUNT.format(gigs, condition)), *given)
    hits = _marked(dialect, _HITS.format(gigs, condition, order))
    rows = await read.execute(hits, *given, PAGE_SIZE, (page - 1) * PAGE_SIZE)
    return int(total[0][0]), [Hit(*row) for row in rows]


def _dialect_of(read: Reads) -> Dialect:
    if read.dialect not in DIALECTS:
        raise SettingsError(f"the search index needs a store that speaks SQL: {', '.join(DIALECTS)}")
    return DIALECTS[read.dialect]


def _marked(dialect: Dialect, sql: str) -> str:
    """The statement with its parameters written as the engine's driver wants them."""
    numbers = count(1)
    start, *rest = sql.split("?")
    return start + "".join(dialect.mark.format(next(numbers)) + part for part in rest)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
