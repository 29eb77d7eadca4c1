"""A certificate authority of our own, and one certificate that every server shows."""

import subprocess

from settings import TLS

CA, CERTIFICATE, KEY, BOTH = (TLS / name for name in ("ca.pem", "server.pem", "server.key", "server-with-key.pem"))
_CA_KEY, _REQUEST, _EXTENSIONS = (TLS / name for name in ("ca.key", "server.csr", "server.ext"))

_DAYS = "3650"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_SERVER = """\
subjectAltName = DNS:localhost, IP:127.0.0.1
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
"""


def ensure() -> None:
    if BOTH.exists():
        return
    TLS.mkdir(parents=True, exist_ok=True)
    _make_authority()
    _make_certificate()
    # Docker's servers run as users of their own, and have to read it too
    KEY.chmod(0o644)
    BOTH.write_text(KEY.read_text() + CERTIFICATE.read_text())


def _make_authority() -> None:
    subject = ("-subj", "/CN=Chimera development CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    _openssl("req", "-x509", *_NEW_KEY, *subject, "-days", _DAYS, "-keyout", _CA_KEY, "-out", CA)


def _make_certificate() -> None:
    _EXTENSIONS.write_text(_SERVER)
    _openssl("req", *_NEW_KEY, "-subj", "/CN=localhost", "-keyout", KEY, "-out", _REQUEST)
    authority = ("-CA", CA, "-CAkey", _CA_KEY, "-CAcreateserial", "-days", _DAYS)
    _openssl("x509", "-req", "-in", _REQUEST, *authority, "-extfile", _EXTENSIONS, "-out", CERTIFICATE)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
