"""How a service knows who asks, as the fleet has it in `[identity]`: data, read once and handed on."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from chimera.core.timing import Seconds

Texts = list[str] | str


class Issuer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Who issues tokens (OpenID Connect), found at `{issuer}/.well-known/openid-configuration`.

    `audience`: whom its tokens are for. `client_id`, `client_secret`: as what pages log people in; a secret may be in a
    file (`file:…`). `scopes` are asked for then. `roles`, `tenant`: the claims that hold them, by name, or by a path
    with dots. `claims`: those that travel with commands, beside the scopes. `prefix` goes before each subject, to tell
    apart people of several issuers. `plain`: it may be reached without TLS elsewhere than on this machine.
    """

    issuer: str
    audience: str
    client_id: str = ""
    client_secret: str = ""
    scopes: list[str] = []
    roles: str = "roles"
    tenant: str = ""
    claims: list[str] = []
    prefix: str = ""
    plain: bool = False


class ApiKey(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A key by which a program is known: as `name`, with these roles and this tenant.

    `digest`: the SHA-256 of the key, in hexadecimal, as `chimera key new NAME` prints it; or `key`, with the key in a
    file (`file:…`).
    """

    name: str
    digest: str = ""
    key: str = ""
    roles: list[str] = []
    tenant: str = ""


class Certificates(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Certificates of clients: of TLS that ends here (`[http] client_ca`), or in the `header` of a trusted proxy.

    `subject`: what of a certificate names its owner, its URI or DNS name (SAN), or its common name. `holds`: what the
    header has, a certificate (RFC 9440, or PEM in percent encoding) or the name itself. `roles` by subject.
    """

    subject: Literal["uri", "dns", "cn"] = "uri"
    header: str = ""
    holds: Literal["certificate", "name"] = "certificate"
    roles: dict[str, list[str]] = {}


class Identity(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The ways in which callers are known; none, unless they are set.

    `sessions`: secrets that seal the sessions of pages; the first one seals, all open. Without them they are made of
    the fleet's keys, and without those they end with the process. `session_s`: how long one is good. `url`: where
    browsers find the pages, as in `https://shop.example`; the host that was asked unless it is set. `cookie`: the
    session's name.
    """

    sessions: Texts = []
    session_s: Annotated[float, msgspec.Meta(gt=0, le=2_592_000)] = 28_800.0
    url: str = ""
    cookie: str = "chimera_session"
    issuers: list[Issuer] = []
    api_keys: list[ApiKey] = []
    certificates: Certificates | None = None

    @property
    def is_set(self) -> bool:
        """True where anybody can be known by it."""
        return bool(self.issuers or self.api_keys or self.certificates)

    @property
    def proves(self) -> str:
        """The header in which trusted proxies tell of clients' certificates; empty for none."""
        return self.certificates.header if self.certificates else ""

    @property
    def logs_in(self) -> bool:
        """True where pages log people in."""
        return any(each.client_id for each in self.issuers)


class KeyTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long issuers' keys are believed, in seconds.

    `fresh_s`: after that they are asked for again, while those at hand go on. `least_s`: between two times that they
    are asked for because of a key that is not known. `again_s`: after an issuer did not answer. `skew_s`: by which
    clocks may differ.
    """

    fresh_s: Seconds = 600.0
    least_s: Seconds = 10.0
    again_s: Seconds = 1.0
    skew_s: Seconds = 30.0
