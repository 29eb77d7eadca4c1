"""The key with which the issuer signs, kept in a file, so that what it has issued stays good when it starts again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from chimera.errors import SettingsError
from chimera.run.front.keys import kept_secret
from chimera.web.identity.ways import unpadded

ALGORITHM = "ES256"


class Key(NamedTuple):
    """A key pair on the curve P-256. `kid` names it: the thumbprint of its public half (RFC 7638)."""

    private: EllipticCurvePrivateKey
    kid: str
    public: dict[str, Any]
    """The public half, as a JSON Web Key."""


def kept_key(path: Path) -> Key:
    """The key in a file, which is made where there is none. Raises SettingsError for a file that holds no such key."""
    try:
        found = load_pem_private_key(kept_secret(path, _made), None)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"{path}: the issuer's key can't be read ({error}); remove it, and one is made") from error
    if not isinstance(found, EllipticCurvePrivateKey) or not isinstance(found.curve, SECP256R1):
        raise SettingsError(f"{path}: this is no key on the curve P-256; remove it, and one is made")
    return _described(found)


def _described(private: EllipticCurvePrivateKey) -> Key:
    public = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    named = {name: public[name] for name in ("crv", "kty", "x", "y")}
    kid = unpadded(hashlib.sha256(msgspec.json.encode(named, order="deterministic")).digest())
    return Key(private, kid, {**named, "kid": kid, "alg": ALGORITHM, "use": "sig"})


def _made() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
