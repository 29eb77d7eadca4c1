"""API keys, by which programs are known: kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from chimera.caller import Caller
from chimera.web.identity.settings import ApiKey
from chimera.web.identity.ways import NotKnown

LONGEST = 1_024


class ApiKeys:
    """Reads the keys of programs."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [(bytes.fromhex(each.digest), _caller_of(each)) for each in keys]

    def read(self, shown: str) -> Caller:
        """Whose key it is. Every key is compared, whichever it is. Raises NotKnown."""
        digest = hashlib.sha256(shown[:LONGEST].encode("utf-8", "replace")).digest()
        found = [caller for own, caller in self._keys if hmac.compare_digest(own, digest)]
        if not found or len(shown) > LONGEST:
            raise NotKnown("the API key is none that is known here")
        return found[0]


def _caller_of(key: ApiKey) -> Caller:
    return Caller(key.name, frozenset(key.roles), {}, key.tenant)


def digest_of(key: str) -> str:
    """What is kept of a key: its SHA-256, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()
