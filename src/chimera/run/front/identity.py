"""The settings of `[identity]`: what can be wrong with them, and the secrets that their files hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from chimera.run.front.keys import FILE, Keys
from chimera.run.front.settings import Http
from chimera.web.identity.settings import ApiKey, Identity, Issuer

HERE = ("localhost", "127.0.0.1", "::1")
RESERVED = ("nobody", "system")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def read_identity(identity: Identity, fronts: Sequence[Http], folder: Path) -> Identity:
    """The settings, with what files hold; paths are found from a folder. `fronts`: all that clients come in by.

    Raises ValueError that says what is wrong and what to type, and OSError.
    """
    for wrong in (*_issuers(identity), *_sessions(identity), *_api_keys(identity), *_certificates(identity, fronts)):
        raise ValueError(wrong)
    read = msgspec.structs.replace(
        identity,
        sessions=_secrets(identity, folder),
        issuers=[_with_secret(each, folder) for each in identity.issuers],
        api_keys=[found for each in identity.api_keys for found in _with_digests(each, folder)],
    )
    digests = [each.digest for each in read.api_keys]
    for each in read.api_keys:
        if digests.count(each.digest) > 1:
            raise ValueError(f"api_keys: the key of {each.name!r} stands there twice; make one: chimera key new NAME")
    return read


def _secrets(identity: Identity, folder: Path) -> list[str]:
    try:
        return list(Keys(keys=identity.sessions).read(folder))
    except ValueError as error:
        raise ValueError(f"sessions: {error}") from error


def _with_secret(issuer: Issuer, folder: Path) -> Issuer:
    if not issuer.client_secret.startswith(FILE):
        return issuer
    secret = (folder / issuer.client_secret.removeprefix(FILE)).read_text().strip()
    if not secret:
        raise ValueError(f"issuers: client_secret: {issuer.client_secret} is empty")
    return msgspec.structs.replace(issuer, client_secret=secret)


def _with_digests(key: ApiKey, folder: Path) -> Iterator[ApiKey]:
    """The key by its digests: of a file with several there is one for each."""
    if key.digest:
        yield key
        return
    found = Keys(keys=[key.key]).read(folder)
    if not found:
        raise ValueError(f"api_keys: {key.name!r}: {key.key} is empty; make a key: chimera key new {key.name}")
    for each in found:
        yield msgspec.structs.replace(key, key="", digest=hashlib.sha256(each.encode()).hexdigest())


def _issuers(identity: Identity) -> Iterator[str]:
    seen: dict[str, str] = {}
    for each in identity.issuers:
        if wrong := _wrong_url(each.issuer, is_plain=each.plain):
            yield f"issuers: issuer: {wrong}"
        if not each.audience:
            yield f'issuers: {each.issuer}: tokens for anybody would do; add audience = "…"'
        if each.client_secret and not each.client_id:
            yield f"issuers: {each.issuer}: a client_secret without its client_id"
        if not each.roles:
            yield f'issuers: {each.issuer}: roles is the name of a claim, as in: roles = "realm_access.roles"'
        if each.issuer in seen:
            yield f"issuers: {each.issuer} stands there twice"
        if each.prefix in seen.values():
            yield (
                f"issuers: {each.issuer} and another one could call two people by one name; add a prefix to "
                f'each but one, as in: prefix = "{urlsplit(each.issuer).hostname}:"'
            )
        seen[each.issuer] = each.prefix


def _wrong_url(url: str, *, is_plain: bool) -> str:
    """What is wrong with the address of an issuer; empty where nothing is."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or " " in url:
        return f"{url!r} is no address of an issuer; one looks like https://login.example.com"
    if parts.scheme == "http" and host not in HERE and not is_plain:
        return f"{url!r}: on the way its keys could be exchanged for others; type https://…, or add plain = true"
    return ""


def _sessions(identity: Identity) -> Iterator[str]:
    if identity.sessions and not identity.logs_in:
        yield "sessions: nobody logs in here; add client_id to an issuer"
    if not _NAME.fullmatch(identity.cookie):
        yield f"cookie: {identity.cookie!r} is no name of a cookie"
    if identity.url and (urlsplit(identity.url).scheme not in ("http", "https") or not urlsplit(identity.url).netloc):
        yield f"url: {identity.url!r} is no address of pages; one looks like https://shop.example"


def _api_keys(identity: Identity) -> Iterator[str]:
    for each in identity.api_keys:
        typed = f"make one: chimera key new {each.name or 'NAME'}"
        if not each.name or each.name in RESERVED:
            yield f"api_keys: {each.name!r} is no name of a program"
        elif bool(each.digest) == bool(each.key):
            yield f"api_keys: {each.name!r} has {'both digest and key' if each.key else 'no digest'}; {typed}"
        elif each.digest and not _DIGEST.fullmatch(each.digest):
            yield f"api_keys: {each.name!r}: digest is a SHA-256, 64 characters in hexadecimal; {typed}"
        elif each.key and not each.key.startswith(FILE):
            yield f'api_keys: {each.name!r}: a key stands in a file: key = "file:/run/secrets/key"; or its digest'


def _certificates(identity: Identity, fronts: Iterable[Http]) -> Iterator[str]:
    if (found := identity.certificates) is None:
        return
    every = list(fronts)
    if found.header and not any(each.proxies for each in every):
        yield (
            f"certificates: whoever asks could write {found.header} herself; name who may, as in: "
            '[http] proxies = ["10.0.0.7"]'
        )
    if found.header and not _NAME.fullmatch(found.header):
        yield f"certificates: {found.header!r} is no name of a header"
    if found.holds == "name" and not found.header:
        yield 'certificates: holds = "name" is of a header; add header = "…"'
    if not found.header and not any(each.client_ca for each in every):
        yield 'certificates: none is asked for; add [http] client_ca = "clients.pem", or header = "Client-Cert"'
