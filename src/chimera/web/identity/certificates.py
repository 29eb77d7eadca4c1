"""Certificates of clients, as TLS has proven them here, or a trusted proxy: whom they name."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from chimera.caller import Caller, Request
from chimera.core.clock import Clock
from chimera.web.identity.sealing import Sealer
from chimera.web.identity.settings import Certificates
from chimera.web.identity.ways import PASSED, NotKnown, checked
from chimera.web.wire.http import PROVEN

KNOWN = 1_024
"""Certificates that are remembered as read."""
LONGEST = 32_768
PEM = "-----BEGIN CERTIFICATE-----"
GOOD_S = 60.0
SKEW_S = 30.0


class _Passed(msgspec.Struct, frozen=True):
    subject: str
    until: float


class CertificateReader:
    """Reads whom certificates name. That they are good is TLS's to say, here or at the proxy.

    `fleet`: keys that seal what a gateway says, the first one; all open.
    """

    def __init__(self, settings: Certificates, fleet: Sequence[str], clock: Clock) -> None:
        self._settings = settings
        self._sealer = Sealer(fleet, "chimera certificate", clock) if fleet else None
        self._clock = clock
        self._known: dict[str, Caller] = {}

    def caller(self, request: Request) -> Caller | None:
        """Whom a certificate names, shown here or to the gateway; None without one. Raises NotKnown."""
        if shown := self.shown(request.scope):
            return self.read(shown)
        if (passed := request.headers.get(PASSED)) is None:
            return None
        told = self._sealer.open(passed, _Passed) if self._sealer is not None else None
        if told is None or not -SKEW_S <= told.until - self._clock.time() <= GOOD_S + SKEW_S:
            raise NotKnown(f"{PASSED} is not the gateway's word")
        return self._of(told.subject)

    def passing(self, request: Request) -> str:
        """What a gateway tells a service, in the header `PASSED`; empty without a certificate. Raises NotKnown."""
        shown = self.shown(request.scope)
        if not shown or self._sealer is None:
            return ""
        return self._sealer.seal(_Passed(self.read(shown).subject, self._clock.time() + GOOD_S))

    def shown(self, scope: Mapping[str, Any]) -> str:
        """What proves who asks, as a text; empty without any. A header counts where the front has taken it over.

        Raises NotKnown where a proxy has said it more than once: one of them may be the client's.
        """
        if proven := scope.get(PROVEN):
            if len(proven) > 1:
                raise NotKnown("the proxy tells of more than one certificate")
            if proven[0]:
                return str(proven[0])
        tls = (scope.get("extensions") or {}).get("tls") or {}
        chain = tls.get("client_cert_chain") or ()
        return str(chain[0]) if chain else ""

    def read(self, shown: str) -> Caller:
        """Whom a certificate names. Raises NotKnown."""
        if (known := self._known.get(shown)) is not None:
            return known
        caller = self._of(self._named(shown))
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[shown] = caller
        return caller

    def _of(self, name: str) -> Caller:
        return checked(Caller(name, frozenset(self._settings.roles.get(name, ()))))

    def _named(self, shown: str) -> str:
        if self._settings.holds == "name" and not shown.startswith(PEM):
            return shown
        try:
            certificate = _certificate_of(shown)
            found = _names(certificate, self._settings.subject)
        except (ValueError, TypeError, binascii.Error, x509.DuplicateExtension) as error:
            raise NotKnown("the client's certificate can't be read") from error
        if len(found) != 1:
            kind = {"uri": "URI", "dns": "DNS name", "cn": "common name"}[self._settings.subject]
            raise NotKnown(f"the client's certificate has {len(found) or 'no'} {kind}{'s' if len(found) > 1 else ''}")
        return found[0]


def _certificate_of(shown: str) -> x509.Certificate:
    """A certificate as a PEM, in percent encoding or not, or between colons (RFC 9440)."""
    if len(shown) > LONGEST:
        raise ValueError("it is too long")
    if shown.startswith(":") and shown.endswith(":"):
        return x509.load_der_x509_certificate(base64.b64decode(shown[1:-1], validate=True))
    return x509.load_pem_x509_certificate(unquote(shown).encode())


def _names(certificate: x509.Certificate, kind: str) -> list[str]:
    if kind == "cn":
        return [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return others.get_values_for_type(x509.UniformResourceIdentifier if kind == "uri" else x509.DNSName)
