"""What search answers, and how text becomes words."""

import re
import unicodedata

from msgspec import Struct

from marketplace.top_clients.messages import ShownClients

PAGE_SIZE = 20
LONGEST_WORD = 64
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


def words_of(text: str) -> list[str]:
    """The letters and digits of a text, in words without accents and capitals; of a long word, its beginning."""
    plain = "".join(each for each in unicodedata.normalize("NFD", text) if not unicodedata.combining(each))
    return [word[:LONGEST_WORD] for word in _WORD.findall(plain.casefold())]


def asked_words(text: str) -> list[str]:
    """The words of what somebody typed; the last one may be unfinished."""
    return words_of(text)[:_MOST_WORDS]
