"""An application with what is set in front of it."""

from __future__ import annotations

import importlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from chimera.core.clock import Clock
from chimera.errors import SettingsError
from chimera.run.engines import load_module
from chimera.run.front.access_log import AccessLog, written
from chimera.run.front.proven import Proven
from chimera.run.front.settings import Cors, Http
from chimera.supplies import Middleware
from chimera.web.wire.http import ASGIApp, Receive, Scope, Send
from chimera.web.wire.middleware import lived, living, surrounded

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
SENT = (
    "Authorization",
    "Chimera-After",
    "Chimera-Correlation",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-Id",
    "baggage",
    "traceparent",
    "tracestate",
)
"""Headers of requests that pages of other origins may send, beside those that every page may."""
EXPOSED = (
    "Chimera-Behind",
    "Chimera-Command",
    "Chimera-Lacks",
    "Chimera-Position",
    "Content-Disposition",
    "ETag",
    "Idempotency-Key",
    "Location",
    "Retry-After",
    "WWW-Authenticate",
)
"""Headers of answers that they may read."""


@asynccontextmanager
async def in_front(http: Http, app: ASGIApp, clock: Clock | None = None, *, proves: str = "") -> AsyncIterator[ASGIApp]:
    """An application behind what is set, which is started before the block and stopped after it.

    `proves`: the header in which trusted proxies tell of clients' certificates. Without any of it that is the
    application itself. Raises ChimeraError, SettingsError for what can't be loaded.
    """
    if not http.wraps:
        yield app
        return

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lived(receive, send)
        else:
            await app(scope, receive, send)

    outermost = _around(http, surrounded(inner, load_middleware(http)), clock or Clock())
    if http.proxies and proves:
        outermost = Proven(outermost, http.proxies, proves)
    with written(http.access_log):
        async with living(outermost):
            yield outermost


def _around(http: Http, app: ASGIApp, clock: Clock) -> ASGIApp:
    """What comes with Chimera around an author's own middleware, the outermost last."""
    if http.compress:
        app = _starlettes("chimera.run.front.compression", "compress").Compression(app, http.compress_from)
    if http.cors is not None:
        app = _cors(http.cors, app)
    if http.access_log != "off":
        app = AccessLog(app, http.access_log, clock)
    if http.proxies:
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        app = cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), trusted_hosts=http.proxies))
    return app


def _cors(cors: Cors, app: ASGIApp) -> ASGIApp:
    made: ASGIApp = _starlettes("starlette.middleware.cors", "cors").CORSMiddleware(
        app,
        allow_origins=cors.origins,
        allow_methods=METHODS,
        allow_headers=[*SENT, *cors.headers],
        allow_credentials=cors.credentials,
        expose_headers=[*EXPOSED, *cors.expose],
        max_age=cors.max_age_s,
    )
    return made


def load_middleware(http: Http) -> list[Middleware]:
    """The middleware of authors. Raises SettingsError for what can't be loaded."""
    return [_loaded(each) for each in http.middleware]


def _loaded(name: str) -> Middleware:
    module, _, attribute = name.partition(":")
    typed = f'[http] middleware = ["{name}"]'
    found: Any = load_module(typed, module)
    for part in attribute.split("."):
        if (found := getattr(found, part, None)) is None:
            raise SettingsError(f"{typed}: {module} has no {attribute!r}")
    if not callable(found):
        raise SettingsError(
            f"{typed} is a {type(found).__name__}; name a class or a function that takes an application"
        )
    return Middleware(found, (), {}, f"[http] the middleware {name}")


def check_front(http: Http, table: str = "[http]") -> None:
    """Raises SettingsError for what could not be loaded or opened. `table`: where it is set."""
    load_middleware(http)
    if http.compress:
        _starlettes("starlette.middleware.gzip", "compress")
    if http.cors:
        _starlettes("starlette.middleware.cors", "cors")
    check_certificate(http, table)


def check_certificate(http: Http, table: str = "[http]") -> None:
    """Raises SettingsError for a certificate and a key with which no TLS can be spoken."""
    if not http.certificate:
        return
    for name, path in (("certificate", http.certificate), ("key", http.key)):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise SettingsError(f"{table} {name}: {path} can't be read ({error.strerror})") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            http.certificate, http.key, password=lambda: http.key_password
        )
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(f"{table} {_why_no_tls(http, error)}") from error
    _check_clients(http, table)


def _check_clients(http: Http, table: str) -> None:
    if not http.client_ca:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(http.client_ca)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(f"{table} client_ca: {http.client_ca} is no PEM file of certificates") from error
    except OSError as error:
        raise SettingsError(f"{table} client_ca: {http.client_ca} can't be read ({error.strerror})") from error


def _why_no_tls(http: Http, error: Exception) -> str:
    reason = getattr(error, "reason", "") or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return f"key: {http.key} is not the key of {http.certificate}"
    if "ENCRYPTED" in Path(http.key).read_text(errors="replace"):
        return f"key_password: it does not open {http.key}; set CHIMERA_HTTP__KEY_PASSWORD"
    return f"certificate and key: {http.certificate} and {http.key} are no PEM files of TLS ({reason})"


def _starlettes(module: str, setting: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"[http] {setting} needs {error.name}, which is not installed; type: pip install 'chimera-kit[http]'"
        ) from error
