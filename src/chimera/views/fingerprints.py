"""Fingerprints: they tell whether two processes run the same code of a view.

A fingerprint is made of the `version` that the view declares, the schema of its documents, its lists, its events' types
and what their functions are compiled to, with the plain values that they have as defaults or have closed over. It is
the same in every process and after every restart of one Python version; comments, names of variables and lines don't
matter. It does not see what a function calls or reads elsewhere: that is what `version` is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from chimera.folds import View, fingerprint_parts
from chimera.forms import AnyDocument
from chimera.service import Service
from chimera.views.lists.entries import list_digests


def fingerprint(view: View[AnyDocument]) -> str:
    """The fingerprint of a view's code: 16 hexadecimal digits, the beginning of a SHA-256."""
    return _digest([*fingerprint_parts(view), *list_digests(view)])


def fingerprint_of_all(service: Service) -> str:
    """The fingerprint of the code of all views of a service."""
    return _digest(f"{name} {fingerprint(view)}" for name, view in sorted(service.views.items()))


def _digest(parts: Iterable[str]) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:16]
