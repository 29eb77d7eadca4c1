"""How values are concealed, and how the keys of subjects are wrapped: AES-256 in GCM, by `cryptography`."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from chimera.errors import ChimeraError, SettingsError, Unavailable
from chimera.personal import MARK, Concealed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM as Cipher  # noqa: N811 - a class

KEY = 32
"""Bytes of a key."""
_NONCE = 12


class Masters:
    """The master keys, by their ids: the first one wraps, all of them unwrap."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = {_digest(key, "chimera master i", 4).hex(): _digest(key, "chimera master", KEY) for key in keys}
        self.first = next(iter(self._keys), "")
        """The id of the one that wraps; empty where there is none."""

    def wrap(self, subject: str, key: bytes, nonce: bytes) -> bytes:
        """A subject's key as it is stored; `nonce` are 12 random bytes."""
        return nonce + _cipher(self._keys[self.first]).encrypt(nonce, key, subject.encode())

    def unwrap(self, subject: str, master: str, wrapped: bytes) -> bytes:
        """A subject's key of what is stored. Raises Unavailable where it was wrapped by a master key that is gone."""
        if master not in self._keys:
            raise Unavailable(
                f"keys of subjects are wrapped by the master key {master}, which is not among "
                f"[personal] keys; those are: {', '.join(self._keys) or 'none'}"
            )
        try:
            return _cipher(self._keys[master]).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], subject.encode())
        except Exception as error:
            raise ChimeraError(f"the key of a subject is damaged, where master key {master} wrapped it") from error


def conceal(key: bytes, service: str, key_id: str, subject: str, data: bytes, salt: str) -> str:
    """The text of a value's JSON. The same of all these makes the same text, so that work done twice is told as one."""
    nonce = blake2b(salt.encode() + b"\0" + data, key=key, digest_size=_NONCE, person=b"chimera nonce").digest()
    sealed = nonce + _cipher(key).encrypt(nonce, data, _bound(service, key_id, subject))
    return f"{MARK}.{service}.{key_id}.{urlsafe_b64encode(sealed).decode().rstrip('=')}.{subject}"


def reveal(key: bytes, value: Concealed) -> bytes:
    """The JSON of a concealed value. Raises ChimeraError where it was changed, or put into another's place."""
    try:
        sealed = urlsafe_b64decode(value.sealed + "=" * (-len(value.sealed) % 4))
        bound = _bound(value.service, value.key, value.subject)
        return _cipher(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
    except Exception as error:
        raise ChimeraError(f"a personal value of {value.service} was changed since it was concealed") from error


def check_installed() -> None:
    """Raises SettingsError where `cryptography` is not installed."""
    _cipher(bytes(KEY))


def _bound(service: str, key_id: str, subject: str) -> bytes:
    return f"{service}\n{key_id}\n{subject}".encode()


def _cipher(key: bytes) -> Cipher:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise SettingsError(
            "personal fields need cryptography, which is not installed; type: pip install 'chimera-kit[personal]'"
        ) from error
    return AESGCM(key)


def _digest(key: str, what: str, size: int) -> bytes:
    return blake2b(key.encode(), digest_size=size, person=what.encode()).digest()
