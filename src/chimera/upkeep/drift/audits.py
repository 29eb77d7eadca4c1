"""The findings of audits, of shares and of copies, and how they are told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from chimera.core.paging import pages

logger = logging.getLogger("chimera")

LOGGED = 20
"""Keys in one log message."""


class AuditReport(msgspec.Struct):
    """The findings of one audit of a share: with `mode` owner, at its owner, with `lists` in the lists of the view of
    this name, else in a borrower's copy.

    `checked` counts the keys compared; `changed`, `missing` and `invented` those whose document was another, was
    not there, or should not be there; `repaired` those made right; `in_flight` those that a change is on its way
    to. `keys` are the changed, missing and invented ones. `failed` says why nothing could be compared.
    """

    service: str
    share: str
    mode: str
    checked: int = 0
    changed: int = 0
    missing: int = 0
    invented: int = 0
    repaired: int = 0
    in_flight: int = 0
    keys: list[str] = []
    failed: str = ""

    @property
    def found(self) -> int:
        """The number of keys that were changed, missing or invented."""
        return self.changed + self.missing + self.invented


KINDS = ("changed", "missing", "invented")


def by_kind(found: Mapping[str, str]) -> dict[str, list[str]]:
    """The keys of each kind, in order, from the kinds by key."""
    return {kind: sorted(key for key, each in found.items() if each == kind) for kind in KINDS}


def kind_of(digest: str, wanted: str) -> str:
    """The kind of finding: a document of this digest where another was wanted; empty digests are of none."""
    if not wanted:
        return "invented"
    return "changed" if digest else "missing"


def tell(what: str, keys: Sequence[str]) -> None:
    """Warn of keys, `LOGGED` in a message."""
    for page in pages(keys, LOGGED):
        logger.warning("%s: %s", what, ", ".join(map(repr, page)))
