"""What stands in front of all routes, as it is set in `[http]`: through real sockets."""

from __future__ import annotations

import json
import logging
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

import chimera
from chimera.run.front.access_log import NAME
from chimera.run.front.chain import EXPOSED, SENT, check_certificate, in_front
from chimera.run.front.gateway import Gateway
from chimera.run.front.settings import Http
from chimera.run.hosting import Hosting
from chimera.run.serving import answering, base_of, listen_as_set
from chimera.run.settings import Settings, read_settings
from chimera_faults.fleet import free_ports
from tests.run.hosted import front

SERVICES = """
[services.glass]
app = "tests.run.hosted.front:glass"
"""
SHOPS = """
[services.kiosk]
app = "tests.run.hosted.shop:shop"
[services.page]
app = "tests.run.hosted.shop:page"
"""
ORIGIN = "https://shop.example"


def settings_of(folder: Path, http: str, services: str = SERVICES) -> Settings:
    path = folder / "chimera.toml"
    path.write_text(f"[http]\n{http}\n{services}")
    return read_settings(path, {"CHIMERA_STATE": str(folder / "state")}, {"port": 0})


@asynccontextmanager
async def served(folder: Path, http: str, services: str = SERVICES) -> AsyncIterator[str]:
    """Services with these settings of `[http]`; gives where they are served."""
    settings = settings_of(folder, http, services)
    hosting = Hosting(lambda: settings, heads=("read", "write"), together=True)
    with closing(await listen_as_set(settings.http, "127.0.0.1", 0)) as listener:
        async with hosting.running(), answering(hosting, listener, http=settings.http):
            yield base_of("127.0.0.1", listener, settings.http)


@asynccontextmanager
async def asked(folder: Path, http: str, services: str = SERVICES, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with served(folder, http, services) as base, httpx.AsyncClient(base_url=base, **options) as client:
        yield client


def make_certificate(folder: Path, name: str = "") -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", f"{name}key.pem", "-out", f"{name}certificate.pem", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


TLS = 'certificate = "certificate.pem"\nkey = "key.pem"'


async def test_tls_is_spoken_with_a_certificate_from_files(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
    async with asked(tmp_path, TLS, verify=trusting) as client:
        assert client.base_url.scheme == "https"
        told = (await client.get("/me")).json()
        assert told == {"client": "127.0.0.1", "url": f"{client.base_url}/me"}
        assert (await client.get("/texts/200000")).json() == "x" * 200_000
        with pytest.raises(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=str(client.base_url).replace("https", "http")) as plain:
                await plain.get("/me")
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate verify failed"):
            async with httpx.AsyncClient(base_url=client.base_url) as stranger:
                await stranger.get("/me")


@pytest.mark.parametrize("way", [[], ["--processes"]])
def test_chimera_up_speaks_tls_and_its_services_still_find_each_other(tmp_path: Path, way: list[str]) -> None:
    make_certificate(tmp_path)
    port = free_ports()
    (tmp_path / "chimera.toml").write_text(f"port = {port}\n[http]\n{TLS}\n{SHOPS}")
    command = [sys.executable, "-m", "chimera", "up", *way]
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == f"ready https://127.0.0.1:{port}\n"
            trusting = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
            found = httpx.get(f"https://127.0.0.1:{port}/pages/ann", verify=trusting)
            assert found.json() == ["ann sells", "fresh"]
        finally:
            process.terminate()
        assert process.wait(30) == 0


async def test_a_unix_socket_is_served_in_place_of_a_port(tmp_path: Path) -> None:
    async with served(tmp_path, 'socket = "s"\nsocket_mode = "600"') as base:
        assert base == f"unix:{tmp_path}/s"
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "s"))
        async with httpx.AsyncClient(transport=transport, base_url="http://glass") as client:
            assert (await client.get("/me")).json() == {"client": "", "url": "http://glass/me"}
            assert (await client.post("/panes", json={"pane": "a"})).status_code == 201
        with pytest.raises(
            chimera.SettingsError, match=r"\[http\] socket: .* can't be used \(Address already in use\)"
        ):
            await listen_as_set(Http(socket=str(tmp_path / "s")), "", 0)
    async with served(tmp_path, 'socket = "s"'):  # what is left of the one before is no hindrance
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o660


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(chimera.SettingsError, match="can't be used"):
        await listen_as_set(Http(socket=str(tmp_path / "s")), "", 0)
    assert (tmp_path / "s").read_text() == "mine"


CORS = f'[http.cors]\norigins = ["{ORIGIN}"]\nheaders = ["X-Mine"]\nexpose = ["X-Yours"]'


async def test_a_browser_may_ask_from_the_origins_that_are_named_and_from_no_other(tmp_path: Path) -> None:
    wanted = ", ".join([*SENT, "X-Mine", "Content-Type"])
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": wanted}
    async with asked(tmp_path, CORS) as client:
        allowed = await client.options("/panes", headers={"origin": ORIGIN, **preflight})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
        for name in ("Idempotency-Key", "Chimera-After", "X-Mine"):
            assert name in allowed.headers["access-control-allow-headers"]
        refused = await client.options("/panes", headers={"origin": "https://evil.example", **preflight})
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (400, False)
        assert "access-control-allow-origin" not in (await client.get("/me")).headers


@pytest.mark.parametrize(
    ("path", "body", "status"), [("/panes", {"pane": "a"}, 201), ("/panes", {"pane": "broken"}, 409)]
)
async def test_a_page_of_another_origin_reads_chimeras_headers_whatever_the_answer(
    path: str, body: Any, status: int, tmp_path: Path
) -> None:
    async with asked(tmp_path, CORS) as client:
        answer = await client.post(path, json=body, headers={"origin": ORIGIN})
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
        assert exposed == [*EXPOSED, "X-Yours"]
        assert {name for name in answer.headers if name.startswith("chimera-")} <= {name.lower() for name in exposed}
        missing = await client.get("/nothing", headers={"origin": ORIGIN})
        assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, ORIGIN)


async def raw(client: httpx.AsyncClient, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    async with client.stream("GET", path, headers=headers) as answer:
        return answer, b"".join([piece async for piece in answer.aiter_raw()])


async def test_answers_of_some_size_are_compressed_for_who_takes_that(tmp_path: Path) -> None:
    async with asked(tmp_path, "compress = true") as client:
        for size in (998, 5_000, 70_000, 300_000):
            answer = await client.get(f"/texts/{size}")
            assert (answer.json(), answer.headers["content-encoding"]) == ("x" * size, "gzip")
            assert "accept-encoding" in answer.headers["vary"].lower()
            _, body = await raw(client, f"/texts/{size}")
            assert len(body) < size / 2
        answer, body = await raw(client, "/texts/997")
        assert ("content-encoding" in answer.headers, len(body)) == (False, 999)
        answer, body = await raw(client, "/texts/5000", **{"accept-encoding": "identity"})
        assert ("content-encoding" in answer.headers, len(body)) == (False, 5_002)
        assert (await client.head("/texts/5000")).headers["content-encoding"] == "gzip"


async def test_a_stream_is_compressed_piece_by_piece(tmp_path: Path) -> None:
    front.go_on.clear()
    async with asked(tmp_path, "compress = true") as client, client.stream("GET", "/stream") as answer:
        assert answer.headers["content-encoding"] == "gzip"
        pieces = answer.aiter_bytes()
        assert await anext(pieces) == b"one "
        front.go_on.set()
        assert b"".join([piece async for piece in pieces]) == b"two " * 1_000


async def test_an_answer_whose_very_bytes_are_named_goes_as_it_is(tmp_path: Path) -> None:
    async with asked(tmp_path, "compress = true") as client:
        strong = await client.get('/tagged/"a"')
        assert (strong.headers["etag"], "content-encoding" in strong.headers) == ('"a"', False)
        weak = await client.get('/tagged/W%2F"a"')
        assert (weak.headers["etag"], weak.headers["content-encoding"]) == ('W/"a"', "gzip")
        assert weak.json() == strong.json()
        for path, tag in (('/tagged/"a"', '"a"'), ('/tagged/W%2F"a"', 'W/"a"')):
            same, body = await raw(client, path, **{"if-none-match": tag})
            assert (same.status_code, body, "content-encoding" in same.headers) == (304, b"", False)


FORWARDED = {"x-forwarded-for": "10.9.9.9, 203.0.113.7, 10.0.0.8", "x-forwarded-proto": "https"}


@pytest.mark.parametrize(
    ("proxies", "client", "scheme"),
    [
        ('["127.0.0.1", "10.0.0.0/8"]', "203.0.113.7", "https"),
        ('["127.0.0.0/8"]', "10.0.0.8", "https"),
        ('["10.0.0.0/8"]', "127.0.0.1", "http"),
        ("[]", "127.0.0.1", "http"),
    ],
)
async def test_only_trusted_proxies_say_who_asks(proxies: str, client: str, scheme: str, tmp_path: Path) -> None:
    async with asked(tmp_path, f"proxies = {proxies}") as asking:
        told = (await asking.get("/me", headers=FORWARDED)).json()
    assert (told["client"], told["url"].partition(":")[0]) == (client, scheme)


async def test_whoever_reaches_a_socket_may_be_believed(tmp_path: Path) -> None:
    async with served(tmp_path, 'socket = "s"\nproxies = ["*"]'):
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "s"))
        async with httpx.AsyncClient(transport=transport, base_url="http://glass") as client:
            told = (await client.get("/me", headers={"x-forwarded-for": "203.0.113.7"})).json()
    assert told["client"] == "203.0.113.7"


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_the_access_log_has_a_line_for_each_request_without_its_query(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with asked(tmp_path, 'access_log = "text"\nproxies = ["127.0.0.1"]') as client:
        traced = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        sent = len((await client.get("/nothing/x?token=secret", headers=traced)).content)
        await client.get("/texts/5", headers={"x-request-id": "r-1", "x-forwarded-for": "203.0.113.7"})
        await client.head("/texts/5%0A", headers={"x-request-id": "a b"})
    lines = [line.split()[2:] for line in capsys.readouterr().err.splitlines()]
    assert [" ".join([*words[:3], *words[4:]]) for words in lines] == [
        f"GET /nothing/x 404 ms {sent} bytes {TRACE} 127.0.0.1",
        "GET /texts/5 200 ms 7 bytes r-1 203.0.113.7",
        "HEAD /texts/5%0A 422 ms 0 bytes - 127.0.0.1",
    ]
    assert all(float(words[3]) > 0 for words in lines)
    assert not logging.getLogger(NAME).handlers


async def test_the_access_log_is_json_where_it_is_asked_for(tmp_path: Path) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(NAME)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        async with asked(tmp_path, 'access_log = "json"\ncompress = true') as client:
            _, body = await raw(client, "/texts/5000")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    [line] = map(json.loads, lines)
    assert list(line) == ["time", "method", "path", "status", "ms", "bytes", "id", "client"]
    assert (line["method"], line["path"], line["status"], line["bytes"]) == ("GET", "/texts/5000", 200, len(body))


MIDDLEWARE = 'middleware = ["tests.run.hosted.front:Outer", "tests.run.hosted.front:inner"]'


async def test_an_authors_middleware_is_around_everything_the_first_outermost(tmp_path: Path) -> None:
    front.lives.clear()
    async with asked(tmp_path, MIDDLEWARE) as client:
        for path in ("/texts/5", "/nothing", "/_chimera/glass/health/live"):
            assert (await client.get(path)).headers.get_list("x-through") == ["inner", "outer"]
        assert front.lives == ["outer starts"]
    assert front.lives == ["outer starts", "outer ends"]


async def test_an_authors_middleware_that_fails_is_a_500_that_those_around_it_see(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with asked(tmp_path, f"{MIDDLEWARE}\n{CORS}") as client:
        answer = await client.get("/texts/13", headers={"origin": ORIGIN})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers.get_list("x-through") == ["outer"]
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    said = "GET /texts/13 failed: [http] the middleware tests.run.hosted.front:inner"
    assert (record.getMessage(), bool(record.exc_info)) == (said, True)


async def test_services_that_are_hosted_together_ask_each_other_behind_the_middleware(tmp_path: Path) -> None:
    async with asked(tmp_path, 'middleware = ["tests.run.hosted.front:closed"]', SHOPS) as client:
        assert (await client.get("/pages/ann")).status_code == 403
        assert (await client.get("/pages/ann", headers={"x-key": "right"})).json() == ["ann sells", "fresh"]


async def test_an_asgi_application_has_it_too_through_its_lifespan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIMERA_STATE", str(tmp_path / "state"))
    settings_of(tmp_path, MIDDLEWARE)
    app = chimera.asgi(tmp_path / "chimera.toml")
    front.lives.clear()
    for _ in range(2):
        async with (
            app.lifespan(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client,
        ):
            assert (await client.get("/texts/5")).headers.get_list("x-through") == ["inner", "outer"]
    assert front.lives == ["outer starts", "outer ends"] * 2


async def test_a_gateway_has_it_and_says_to_the_services_who_asks(tmp_path: Path) -> None:
    (tmp_path / "behind").mkdir()
    async with served(tmp_path / "behind", 'proxies = ["127.0.0.1"]') as base:
        there = f'{SERVICES}url = "{base}"'
        settings = settings_of(tmp_path, f'proxies = ["127.0.0.1"]\ncompress = true\n{CORS}', there)
        gateway = Gateway(settings)
        with closing(await listen_as_set(settings.http, "127.0.0.1", 0)) as listener:
            async with (
                in_front(settings.http, gateway.site()) as app,
                answering(app, listener),
                httpx.AsyncClient(base_url=base_of("127.0.0.1", listener)) as client,
            ):
                headers = {**FORWARDED, "origin": ORIGIN}
                answer = await client.get("/me", headers=headers)
                assert answer.json()["client"] == "10.0.0.8"
                assert answer.json()["url"].startswith("https://")
                assert answer.headers["access-control-allow-origin"] == ORIGIN
                assert (await client.get("/texts/5000")).headers["content-encoding"] == "gzip"
        await gateway.close()


FRAME = """
[services.frame]
app = "tests.run.hosted.front:frame"
"""


async def test_a_services_middleware_runs_behind_a_gateway_once(tmp_path: Path) -> None:
    (tmp_path / "behind").mkdir()
    async with served(tmp_path / "behind", "", FRAME) as base:
        settings = settings_of(tmp_path, "", f'{FRAME}url = "{base}"')
        gateway = Gateway(settings)
        with closing(await listen_as_set(settings.http, "127.0.0.1", 0)) as listener:
            async with (
                answering(gateway.site(), listener),
                httpx.AsyncClient(base_url=base_of("127.0.0.1", listener)) as client,
            ):
                answer = await client.get("/frames/a%2Fb")
                assert (answer.json(), answer.headers.get_list("x-through")) == ("a/b", ["outer"])
                told = await client.options("/frames/x")
                assert (told.status_code, told.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
                assert told.headers.get_list("x-through") == ["outer"]
        await gateway.close()


def test_the_page_about_it_shows_settings_that_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    shown, limits = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    written = re.sub(r"^# (?=socket)", "", shown, flags=re.MULTILINE)
    (tmp_path / "chimera.toml").write_text(f"{written}\n{limits}")
    settings = read_settings(tmp_path / "chimera.toml", {})
    assert (settings.limits.rate, settings.limits.burst, settings.limits.waits) == (20, 60, 5)
    named = {name for name in Http.__struct_fields__ if getattr(settings.http, name) != getattr(Http(), name)}
    assert named == {*Http.__struct_fields__} - {"compress_from", "key_password", "client_required", "socket_mode"}
    for name in Http.__struct_fields__:
        assert name in page or name == "key_password"
    assert all(name in page for name in EXPOSED if name.startswith("Chimera-"))


async def test_where_nothing_is_set_nothing_stands_in_front() -> None:
    async def application(*_: Any) -> None: ...

    async with in_front(Http(), application) as found:
        assert found is application


@pytest.mark.parametrize(
    ("http", "said"),
    [
        ('middleware = ["tests.run.hosted.front:nobody"]', "tests.run.hosted.front has no 'nobody'"),
        (
            'middleware = ["tests.run.hosted.nowhere:nobody"]',
            "No module named 'tests.run.hosted.nowhere'; is it installed",
        ),
        (
            'middleware = ["tests.run.hosted.front:number"]',
            "is a int; name a class or a function that takes an application",
        ),
        (TLS, r"\[http\] certificate: certificate\.pem can't be read \(No such file or directory\)"),
    ],
)
def test_what_can_not_be_loaded_is_said_in_one_line(http: str, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chimera", "up"]
    settings_of(tmp_path, http)
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "CHIMERA_PORT": "0"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
    assert re.search(said, ran.stderr), ran.stderr


def test_a_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    make_certificate(tmp_path, "other-")
    settings = settings_of(tmp_path, 'certificate = "certificate.pem"\nkey = "other-key.pem"')
    with pytest.raises(chimera.SettingsError, match=r"other-key.pem is not the key of .*certificate.pem"):
        check_certificate(settings.http)
    missing = settings_of(tmp_path, f'{TLS}\nclient_ca = "none.pem"')
    with pytest.raises(chimera.SettingsError, match=r"\[http\] client_ca: .*none\.pem can't be read \(No such file"):
        check_certificate(missing.http)
    odd = settings_of(tmp_path, f'{TLS}\nclient_ca = "chimera.toml"')
    with pytest.raises(chimera.SettingsError, match=r"chimera\.toml is no PEM file of certificates"):
        check_certificate(odd.http)
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(chimera.SettingsError, match="are no PEM files of TLS"):
        check_certificate(settings_of(tmp_path, TLS).http)


def test_a_key_with_a_password_is_opened_by_it(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    command = ["openssl", "ec", "-in", "key.pem", "-aes256", "-passout", "pass:hunter2", "-out", "locked.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    locked = 'certificate = "certificate.pem"\nkey = "locked.pem"'
    with pytest.raises(chimera.SettingsError, match=r"key_password: it does not open .*locked\.pem"):
        check_certificate(settings_of(tmp_path, locked).http)
    check_certificate(settings_of(tmp_path, f'{locked}\nkey_password = "hunter2"').http)
