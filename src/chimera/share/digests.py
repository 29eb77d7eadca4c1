"""Digests of shared documents: with them an owner and a copy are compared, and no document travels for it."""

from __future__ import annotations

from hashlib import blake2b

from chimera.ports import BucketDigest

BUCKETS = 64
"""The keys of a partition are spread over so many buckets; owner and copy are compared bucket by bucket."""


def bucket_of(key: str) -> int:
    """The bucket of a key: its hash, modulo the number of buckets. It has nothing to do with its partition."""
    return _hash(key) % BUCKETS


def digest_of(document: bytes) -> str:
    """The digest of a document's JSON as it was emitted: BLAKE2b of 128 bits, in hex."""
    return blake2b(document, digest_size=16).hexdigest()


class BucketSum:
    """The digest of keys and documents, in whatever order they come: the XOR of their hashes (BLAKE2b of 128 bits)."""

    def __init__(self) -> None:
        self.count = 0
        self._documents = 0
        self._keys = 0

    def add(self, key: str, digest: str) -> None:
        """Add a key, once, with the digest of its document."""
        self.count += 1
        self._documents ^= _hash(f"{digest} {key}")
        self._keys ^= _hash(key)

    def digest(self) -> BucketDigest:
        """The digest of all that was added so far, in hex."""
        return BucketDigest(f"{self._documents:032x}", f"{self._keys:032x}")


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest())
