"""Certificates of clients: of TLS on a real socket, and in the header of a proxy; of whom they tell."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chimera.run.hosting import Hosting
from chimera.run.serving import answering, base_of, listen_as_set
from chimera.run.settings import read_settings

SPIFFE = "spiffe://fleet/robot"


class Authority:
    """Whose certificates count."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.sign(self.key, "authority", ca=True)

    def sign(self, key: Any, name: str, *others: x509.GeneralName, ca: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        made = made.not_valid_after(now + datetime.timedelta(days=1))
        made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if ca:
            made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        if others:
            made = made.add_extension(x509.SubjectAlternativeName(others), critical=False)
        return made.sign(self.key, hashes.SHA256())

    def write(self, folder: Path, file: str, name: str, *others: x509.GeneralName) -> x509.Certificate:
        """A certificate and its key as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(key, name, *others)
        (folder / f"{file}.pem").write_bytes(pem_of(certificate))
        (folder / f"{file}-key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate


def pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


@asynccontextmanager
async def hosted(folder: Path, settings: str) -> AsyncIterator[str]:
    """The desk behind what is set, on a real socket."""
    path = folder / "chimera.toml"
    path.write_text(f'{settings}\n[services.desk]\napp = "tests.web.identity.hosted:desk"\n')
    found = read_settings(path, {"CHIMERA_STATE": str(folder / "state")}, {"port": 0})
    hosting = Hosting(lambda: found, heads=("read", "write"), together=True)
    with closing(await listen_as_set(found.http, "127.0.0.1", 0)) as listener:
        async with hosting.running(), answering(hosting, listener, http=found.http):
            yield base_of("127.0.0.1", listener, found.http)


TLS = '[http]\ncertificate = "server.pem"\nkey = "server-key.pem"\nclient_ca = "ca.pem"\n'


def authority(folder: Path) -> Authority:
    found = Authority()
    (folder / "ca.pem").write_bytes(pem_of(found.certificate))
    found.write(folder, "server", "localhost", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    return found


async def me(base: str, folder: Path, client: str = "") -> tuple[int, Any]:
    trusting = ssl.create_default_context(cafile=folder / "ca.pem")
    trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if client:
        trusting.load_cert_chain(folder / f"{client}.pem", folder / f"{client}-key.pem")
    async with httpx.AsyncClient(verify=trusting, base_url=base) as asking:
        answers = [await asking.get("/me") for _ in range(2)]  # both on one connection
    assert answers[0].json() == answers[1].json()
    return answers[0].status_code, answers[0].json()


async def test_a_certificate_of_tls_says_who_asks_with_the_roles_that_are_set(tmp_path: Path) -> None:
    own = authority(tmp_path)
    own.write(tmp_path, "robot", "ignored", uri(SPIFFE))
    own.write(tmp_path, "nameless", "robot")
    own.write(tmp_path, "double", "", uri(SPIFFE), uri("spiffe://fleet/boss"))
    roles = f'[identity.certificates.roles]\n"{SPIFFE}" = ["editor"]\n'
    async with hosted(tmp_path, f"{TLS}[identity.certificates]\n{roles}") as base:
        status, told = await me(base, tmp_path, "robot")
        assert (status, told["subject"], told["roles"]) == (200, SPIFFE, ["editor"])
        assert (await me(base, tmp_path))[1]["reason"] == "unauthenticated", "they may come without one"
        assert (await me(base, tmp_path, "nameless"))[1]["detail"] == "the client's certificate has no URI"
        assert (await me(base, tmp_path, "double"))[1]["detail"] == "the client's certificate has 2 URIs"
        Authority().write(tmp_path, "stranger", "", uri(SPIFFE))
        with pytest.raises((httpx.TransportError, OSError)):
            await me(base, tmp_path, "stranger")


async def test_where_certificates_are_required_nobody_is_heard_without(tmp_path: Path) -> None:
    authority(tmp_path).write(tmp_path, "robot", "robot")
    asked = f'{TLS}client_required = true\n[identity.certificates]\nsubject = "cn"\n'
    async with hosted(tmp_path, asked) as base:
        assert (await me(base, tmp_path, "robot"))[1]["subject"] == "robot"
        with pytest.raises((httpx.TransportError, OSError)):
            await me(base, tmp_path)


def proxied(peer: str = "127.0.0.1", **more: str) -> str:
    written = "".join(f'{name} = "{value}"\n' for name, value in more.items())
    return f'[http]\nproxies = ["{peer}"]\n[identity.certificates]\nheader = "Client-Cert"\n{written}'


async def test_a_trusted_proxys_word_counts_as_a_certificate_or_in_percent_encoding(tmp_path: Path) -> None:
    own = Authority()
    certificate = own.sign(own.key, "robot", uri(SPIFFE))
    der = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    async with hosted(tmp_path, proxied()) as base, httpx.AsyncClient(base_url=base) as asking:
        for shown in (f":{der}:", quote(pem_of(certificate).decode(), safe="")):
            assert (await asking.get("/me", headers={"client-cert": shown})).json()["subject"] == SPIFFE
        for shown in ("robot", ":x:", ":" + "A" * 400 + ":", "%00", f":{der[:-8]}:"):
            answer = await asking.get("/greeting", headers={"client-cert": shown})
            assert (answer.status_code, answer.json()["reason"]) == (401, "bad_credentials"), shown
        twice = [("client-cert", f":{der}:")] * 2
        assert (await asking.get("/me", headers=twice)).status_code == 401
        assert (await asking.get("/greeting", headers={"client-cert": ""})).json() == "nobody"


async def test_a_proxy_may_tell_the_name_alone(tmp_path: Path) -> None:
    async with hosted(tmp_path, proxied(holds="name")) as base, httpx.AsyncClient(base_url=base) as asking:
        assert (await asking.get("/me", headers={"client-cert": "robot"})).json()["subject"] == "robot"
        assert (await asking.get("/me", headers={"client-cert": "system"})).status_code == 401


async def test_from_all_others_that_header_says_nothing(tmp_path: Path) -> None:
    async with hosted(tmp_path, proxied("10.0.0.7", holds="name")) as base, httpx.AsyncClient(base_url=base) as asking:
        shown = {"client-cert": "robot", "x-forwarded-for": "10.0.0.7"}
        assert (await asking.get("/greeting", headers=shown)).json() == "nobody"
        assert (await asking.get("/me", headers=shown)).status_code == 401
