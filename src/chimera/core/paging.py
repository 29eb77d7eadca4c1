"""Cutting lists into pages: by number, and by bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from chimera.ports import PAGE_BYTES

Item = TypeVar("Item")


KEYS = 250
"""Keys that are asked for in one call."""


def pages(items: Sequence[Item], size: int = KEYS) -> Iterator[Sequence[Item]]:
    """The items in order, in pages of `size`; the last one may be shorter, none is empty."""
    return (items[start : start + size] for start in range(0, len(items), size))


def within_page(items: Iterable[Item], data: Callable[[Item], bytes], size: float = PAGE_BYTES) -> Iterator[Item]:
    """The first items, at least one, up to the one with which their `data` have come to `size` bytes."""
    for item in items:
        yield item
        size -= len(data(item) or b"")
        if size <= 0:
            return
