"""Who asks in tests of the marketplace."""

from __future__ import annotations

from chimera import Caller

OPERATOR = Caller("otto", frozenset({"operator"}))
SELLER = Caller("s", frozenset({"seller"}))
OTHER_SELLER = Caller("t", frozenset({"seller"}))
BUYER = Caller("b", frozenset({"buyer"}))
OTHER_BUYER = Caller("c", frozenset({"buyer"}))
