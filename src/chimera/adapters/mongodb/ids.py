"""The ids of what MongoDB holds: documents by view and key, entries of lists by view, filter and place.

MongoDB compares strings as UTF-8 bytes, as the order of keys and of places must be; its own bytes it compares by their
length first.
"""

from __future__ import annotations

from functools import cache
from urllib.parse import quote

from chimera.ports import WITHIN


@cache
def start_of(view: str) -> str:
    """The beginning of the ids of a view's documents."""
    return quote(view, safe="") + "/"


def end_of(view: str) -> str:
    """The end of the ids of a view's documents."""
    return quote(view, safe="") + "0"


def lists_of(view: str) -> str:
    """The beginning of the ids of the entries of a view's lists, as no view's documents have it."""
    return "=" + quote(view, safe="")


def list_start(view: str, within: bytes) -> str:
    """The beginning of the ids of the entries that a filter has; without one, of all entries of the view."""
    return f"{lists_of(view)}/{within.hex()}/" if within else f"{lists_of(view)}/"


_SHIFTED = {each: each + 1 for each in range(256)}
_SHIFTED_BACK = {each + 1: each for each in range(256)}


def text_of(place: bytes) -> str:
    """Bytes as text in the same order, without U+0000."""
    return place.decode("latin-1").translate(_SHIFTED)


def bytes_of(text: str) -> bytes:
    """The bytes of such a text."""
    return text.translate(_SHIFTED_BACK).encode("latin-1")


def index_text_of(place: bytes) -> str:
    """A place with its filter before it, as it stands in the ids of a view's entries; empty for none."""
    return f"{place[:WITHIN].hex()}/{text_of(place[WITHIN:])}" if place else ""


def index_bytes_of(text: str) -> bytes:
    """The place, with its filter before it, of such a text."""
    within, _, at = text.partition("/")
    return bytes.fromhex(within) + bytes_of(at)
