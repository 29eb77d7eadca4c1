"""What the search index asks of an engine's SQL."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Indexed = tuple[list[str], list[str], list[str]]
"""The words of a gig's title, of its category and of its seller's name: best first, as they are ranked."""


class Dialect(NamedTuple):
    """SQL with its parameters written `?`. A parameter is a JSON array, but for those of `matching`."""

    mark: str
    """How the driver wants parameters written; `{}` is the parameter's number."""
    schema: Sequence[str]
    keep_sellers: str
    """[[seller_id, name], …]: an empty name leaves the one that is known. Locks these sellers to the end."""
    keep_gigs: str
    """[[gig_id, seller_id, title, category, price_cents], …]"""
    changed: str
    """[gig_id, …] and [seller_id, …]: number, title, category and seller's name of every gig of theirs."""
    keep_words: Sequence[str]
    """[[number, what `to_stored` made], …], for one statement after the other."""
    to_stored: Callable[[Indexed], Any]
    matching: Callable[[Sequence[str]], tuple[str, list[Any]]]
    """FROM for the gigs that have all these words, the last one as a prefix, with their `score`; its parameters."""
