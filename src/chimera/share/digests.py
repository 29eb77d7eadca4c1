"""A shared document that has changed, and digests, by which owner and copy are compared without the documents."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from chimera.ports import BucketDigest

BUCKETS = 64
"""The keys of a partition are spread over so many buckets; owner and copy are compared bucket by bucket."""


def bucket_of(key: str) -> int:
    """The bucket of a key: its hash, modulo the number of buckets. It has nothing to do with its partition."""
    return _hash(key) % BUCKETS


def digest_of(document: bytes) -> str:
    """The digest of a document's JSON as it was emitted: BLAKE2b of 128 bits, in hex."""
    return blake2b(document, digest_size=16).hexdigest()


class SharedChange(msgspec.Struct):
    """The data of the event that carries a share's new document; `null` when the key has none any more."""

    key: str
    document: msgspec.Raw

    @property
    def removed(self) -> bool:
        """True when the key has no document any more."""
        return bytes(self.document) == b"null"

    @property
    def digest(self) -> str:
        """The document's digest; empty when there is none any more."""
        return "" if self.removed else digest_of(self.document)


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
