"""The settings of `[http]`, and what can be wrong with them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

AccessLogStyle = Literal["off", "text", "json"]
EVERYBODY = "*"
OPTIONAL, REQUIRED = 1, 2
"""`ssl.CERT_OPTIONAL` and its like: `ssl` itself is slow to load."""


class Cors(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Which pages of other origins may ask, and read the answers, in a browser.

    `origins`, as in `https://shop.example`; `*` is all. `credentials`: with cookies. `headers` of requests and those to
    `expose` of answers, beside Chimera's own. A browser asks again after `max_age_s` seconds.
    """

    origins: list[str] = []
    credentials: bool = False
    headers: list[str] = []
    expose: list[str] = []
    max_age_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 600


class Http(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What stands in front of all routes; nothing, unless it is set.

    `middleware`: ASGI middleware as `module:factory`, the first one outermost. `compress`: answers of `compress_from`
    bytes and more. `access_log`: a line for each request, as text or JSON. `proxies`: addresses and networks of those
    whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. `certificate` and `key`: PEM files for TLS, with the
    key's password if it has one. `client_ca`: a PEM file of those whose certificates clients may show; they must, with
    `client_required`. `socket`: the path of a Unix socket, in place of host and port, and its mode. Paths
    are relative to the settings' file.
    """

    middleware: list[str] = []
    cors: Cors | None = None
    compress: bool = False
    compress_from: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] = 1_000
    access_log: AccessLogStyle = "off"
    proxies: list[str] = []
    certificate: str = ""
    key: str = ""
    key_password: str = ""
    client_ca: str = ""
    client_required: bool = False
    socket: str = ""
    socket_mode: str = "660"

    @property
    def wraps(self) -> bool:
        """True when a request passes through anything of it."""
        return bool(self.middleware or self.cors or self.compress or self.access_log != "off" or self.proxies)

    def beside(self, folder: Path) -> Http:
        """With its paths found from a folder."""
        names = ("certificate", "key", "client_ca", "socket")
        paths = {name: str(folder / path) for name in names if (path := getattr(self, name))}
        return msgspec.structs.replace(self, **paths)

    def tls(self) -> dict[str, Any]:
        """The options of uvicorn's TLS; none without a certificate."""
        if not self.certificate:
            return {}
        return {
            "ssl_certfile": self.certificate,
            "ssl_keyfile": self.key,
            **({"ssl_keyfile_password": self.key_password} if self.key_password else {}),
            **self._clients(),
        }

    def _clients(self) -> dict[str, Any]:
        if not self.client_ca:
            return {}
        return {"ssl_ca_certs": self.client_ca, "ssl_cert_reqs": REQUIRED if self.client_required else OPTIONAL}


def what_is_wrong_with(http: Http) -> str:
    """The first setting that can't be meant, with what to type; empty where all can."""
    checks: list[Callable[[Http], str]] = [_middleware, _cors, _proxies, _tls, _socket]
    return next((found for check in checks if (found := check(http))), "")


def _middleware(http: Http) -> str:
    for each in http.middleware:
        if not re.fullmatch(r"[\w.]+:[\w.]+", each):
            return f"middleware: {each!r} must look like module:factory, as in: shop:Tokens"
    return ""


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[^\s/:?#@A-Z]+)(:\d+)?")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_USUAL_PORTS = {"http": ":80", "https": ":443"}


def _cors(http: Http) -> str:
    if (cors := http.cors) is None:
        return ""
    if not cors.origins:
        return 'cors: it has no origins; add origins = ["https://shop.example"]'
    if cors.credentials and EVERYBODY in cors.origins:
        return "cors: with credentials every page of the web could act for whoever visits it; name the origins"
    for origin in cors.origins:
        if origin != EVERYBODY and (typed := _origin(origin)):
            return f"cors: {origin!r} is no origin as browsers send it; type: {typed}"
    for name in (*cors.headers, *cors.expose):
        if not _HEADER.fullmatch(name):
            return f"cors: {name!r} is no name of a header"
    return ""


def _origin(given: str) -> str:
    """What to type in place of an origin; empty where it is right."""
    scheme, is_there, rest = given.strip().lower().partition("://")
    host = (rest if is_there else scheme).partition("/")[0]
    typed = f"{scheme if is_there else 'https'}://{host}"
    typed = typed.removesuffix(_USUAL_PORTS.get(typed.partition(":")[0], ":"))
    return "" if typed == given and _ORIGIN.fullmatch(given) else typed if _ORIGIN.fullmatch(typed) else "https://host"


def _proxies(http: Http) -> str:
    for each in http.proxies:
        if each == EVERYBODY:
            if not http.socket:
                return "proxies: whoever asks could say who she is; name the proxies' addresses, as in: 10.0.0.0/8"
            continue
        try:
            network = ipaddress.ip_network(each, strict=False)
        except ValueError:
            return f"proxies: {each!r} is no address or network; one looks like 10.0.0.7 or 10.0.0.0/8"
        if "/" in each and str(network.network_address) != each.partition("/")[0]:
            return f"proxies: {each!r} is no network; type: {network}"
    return ""


def _tls(http: Http) -> str:
    if http.certificate and not http.key:
        return 'certificate: it needs its key; add key = "key.pem"'
    if http.key and not http.certificate:
        return 'key: it needs its certificate; add certificate = "certificate.pem"'
    if http.client_ca and not http.certificate:
        return 'client_ca: clients show certificates where TLS is spoken; add certificate = "certificate.pem"'
    if http.client_required and not http.client_ca:
        return 'client_required: whose certificates is not said; add client_ca = "clients.pem"'
    return ""


def _socket(http: Http) -> str:
    if not re.fullmatch(r"[0-7]{3}", http.socket_mode):
        return f'socket_mode: {http.socket_mode!r} is no mode of a file; type: socket_mode = "660"'
    return ""
