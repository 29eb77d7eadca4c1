"""What search answers, and the words of people made into a question that SQLite FTS5 can't misread."""

import re

from msgspec import Struct

from marketplace.top_clients.messages import ShownClients

PAGE_SIZE = 20
_MOST_WORDS = 16
_WORD = re.compile(r"[^\W_]+")


class FoundGig(Struct):
    gig_id: str
    title: str
    category: str
    price_cents: int
    seller_id: str
    seller_name: str | None
    top_clients: ShownClients


class SearchPage(Struct):
    q: str
    category: str
    page: int
    pages: int
    total: int
    results: list[FoundGig]


def match_expression(text: str) -> str | None:
    """The FTS5 expression for what somebody typed: every word, the last one as a prefix; None without a word."""
    quoted = [f'"{word}"' for word in _WORD.findall(text)[:_MOST_WORDS]]
    return " ".join(quoted) + "*" if quoted else None
