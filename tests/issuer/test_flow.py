"""Logging in by a click, as clients and browsers see it; and who is not served."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from httpx import ASGITransport, AsyncClient, Response

from chimera.errors import ChimeraError, Unavailable
from chimera.run.serving import listening
from chimera.testing.kit.clock import MovedClock
from chimera.web.identity.people import AUDIENCE, CLIENT, PATH, People, Person
from chimera.web.identity.ways import challenge_of
from chimera.web.site import Site
from chimera_faults.fleet import free_ports
from chimera_issuer.grants import CODE_S
from chimera_issuer.serving import DevelopmentIssuer
from chimera_issuer.shell import token_of
from chimera_issuer.tokens import GOOD_S

EVIL = "\"><script>alert('1')</script>&"
BASE = "http://127.0.0.1:8000"
BACK = f"{BASE}/_chimera/callback"
PEOPLE = People(
    people=[
        Person(subject="seller-01", name="Ada Bianchi", roles=["seller"]),
        Person(subject="otto", roles=["operator", "seller"]),
    ],
    serve=True,
)
VERIFIER = secrets.token_urlsafe(48)
WANTED = {
    "client_id": CLIENT,
    "redirect_uri": BACK,
    "response_type": "code",
    "scope": "openid profile",
    "state": "st&te",
    "nonce": "n-1",
    "code_challenge": challenge_of(VERIFIER),
    "code_challenge_method": "S256",
}


class Browser:
    """A client of an issuer, and what she types."""

    def __init__(self, client: AsyncClient, clock: MovedClock) -> None:
        self.client = client
        self.clock = clock

    async def asked(self, **changes: str) -> Response:
        return await self.client.get(f"{PATH}/authorize", params={**WANTED, **changes})

    async def chosen(self, subject: str = "seller-01", headers: Any = None, **changes: str) -> Response:
        form = {**WANTED, "subject": subject, **changes}
        return await self.client.post(f"{PATH}/authorize", data=form, headers=headers)

    async def code(self, subject: str = "seller-01") -> str:
        return told(await self.chosen(subject))["code"]

    async def token(self, code: str, **changes: str) -> Response:
        form = {"grant_type": "authorization_code", "client_id": CLIENT, "redirect_uri": BACK, "code": code}
        return await self.client.post(f"{PATH}/token", data={**form, "code_verifier": VERIFIER, **changes})

    async def keys(self) -> jwt.PyJWKSet:
        described = (await self.client.get(f"{PATH}/.well-known/openid-configuration")).json()
        assert described["issuer"] == BASE + PATH
        return jwt.PyJWKSet.from_dict((await self.client.get(described["jwks_uri"])).json())


def told(answer: Response) -> dict[str, str]:
    """What is told to the client in an address."""
    assert answer.status_code == 303, answer.text
    where = urlsplit(answer.headers["location"])
    assert where._replace(query="").geturl() == BACK
    return {name: values[0] for name, values in parse_qs(where.query).items()}


def browser_of(state: Path, clock: MovedClock, client: tuple[str, int] = ("127.0.0.1", 9)) -> AsyncClient:
    site = Site([DevelopmentIssuer(PEOPLE, state, BASE, clock)])
    return AsyncClient(transport=ASGITransport(cast("Any", site), client=client), base_url=BASE)


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    clock = MovedClock()
    async with browser_of(tmp_path, clock) as client:
        yield Browser(client, clock)


async def test_a_click_and_a_proof_give_tokens_that_say_who_she_is(browser: Browser) -> None:
    page = await browser.asked()
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert all(word in page.text for word in ("Ada Bianchi", "seller-01", "operator, seller"))
    found = told(await browser.chosen())
    assert (found["state"], found["iss"]) == ("st&te", BASE + PATH)
    answer = await browser.token(found["code"])
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    tokens = answer.json()
    keys = await browser.keys()
    for name, audience, typ in (("access_token", AUDIENCE, "at+jwt"), ("id_token", CLIENT, "JWT")):
        header = jwt.get_unverified_header(tokens[name])
        assert header["typ"] == typ
        claims = jwt.decode(tokens[name], keys[header["kid"]], ["ES256"], audience=audience, issuer=BASE + PATH)
        assert (claims["sub"], claims["name"], claims["roles"]) == ("seller-01", "Ada Bianchi", ["seller"])
        assert claims["exp"] - claims["iat"] == GOOD_S == tokens["expires_in"]
        assert claims.get("nonce") == ("n-1" if name == "id_token" else None)
    shown = {"authorization": f"Bearer {tokens['access_token']}"}
    userinfo = await browser.client.get(f"{PATH}/userinfo", headers=shown)
    assert userinfo.json() == {"sub": "seller-01", "name": "Ada Bianchi", "roles": ["seller"]}


async def test_a_code_is_good_once_for_a_minute_and_for_who_has_asked(browser: Browser) -> None:
    used = await browser.code()
    assert (await browser.token(used)).status_code == 200
    again = await browser.token(used)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    old = await browser.code()
    browser.clock.advance(seconds=CODE_S)
    assert (await browser.token(old)).json()["error"] == "invalid_grant"
    for changes in (
        {"code_verifier": secrets.token_urlsafe(48)},
        {"code_verifier": ""},
        {"code_verifier": WANTED["code_challenge"]},
        {"redirect_uri": f"{BASE}/elsewhere"},
    ):
        assert (await browser.token(await browser.code(), **changes)).json()["error"] == "invalid_grant"
    assert (await browser.token("guessed")).json()["error"] == "invalid_grant"
    assert (await browser.token("x", client_id="other")).json()["error"] == "invalid_client"
    assert (await browser.token("x", grant_type="password")).json()["error"] == "unsupported_grant_type"


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": "https://evil.example/back"},
        {"redirect_uri": "http://127.0.0.1.evil.example/"},
        {"redirect_uri": "http://127.0.0.1@evil.example/"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": f"{BACK}#part"},
        {"redirect_uri": f"{BACK}\r\nx: y"},
        {"redirect_uri": ""},
        {"client_id": "other"},
    ],
    ids=lambda changes: next(iter(changes.values())) or "none",
)
async def test_nobody_is_sent_to_an_address_that_is_not_of_this_machine(
    browser: Browser, changes: dict[str, str]
) -> None:
    for answer in (await browser.asked(**changes), await browser.chosen(**changes)):
        assert answer.status_code == 400
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "profile"}, "invalid_scope"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),
    ],
    ids=str,
)
async def test_what_else_is_wrong_is_told_to_the_client(browser: Browser, changes: dict[str, str], error: str) -> None:
    for answer in (await browser.asked(**changes), await browser.chosen(**changes)):
        found = told(answer)
        assert (found["error"], found["state"]) == (error, "st&te")
        assert "code" not in found


async def test_who_is_not_on_this_machine_gets_nothing(tmp_path: Path) -> None:
    paths = [
        (route.method, route.template) for route in DevelopmentIssuer(PEOPLE, tmp_path, BASE, MovedClock()).routes()
    ]
    assert len(paths) == 9
    for client, headers in (
        (("203.0.113.7", 9), {}),
        (("127.0.0.1", 9), {"x-forwarded-for": "203.0.113.7"}),
        (("127.0.0.1", 9), {"host": "evil.example"}),
    ):
        async with browser_of(tmp_path, MovedClock(), client) as asking:
            for method, path in paths:
                assert (await asking.request(method, path, headers=headers)).status_code == 403, path


async def test_a_page_of_another_site_chooses_nobody(browser: Browser) -> None:
    foreign = await browser.chosen(headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403
    sandboxed = await browser.chosen(headers={"origin": "null"})
    assert sandboxed.status_code == 403
    assert (await browser.chosen(headers={"origin": BASE})).status_code == 303
    assert (await browser.chosen("stranger")).status_code == 400


async def test_a_page_says_nothing_but_what_it_was_told_and_leads_nowhere_else(browser: Browser) -> None:
    page = await browser.asked(state=EVIL, nonce=EVIL)
    assert "<script" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert f"form-action 'self' {BASE};" in policy
    assert "frame-ancestors 'none'" in policy


async def test_a_token_that_is_not_good_tells_nothing_of_anybody(browser: Browser) -> None:
    tokens = (await browser.token(await browser.code())).json()
    for shown in ("", "Bearer", "Bearer x.y.z", f"Bearer {tokens['id_token']}", f"Basic {tokens['access_token']}"):
        answer = await browser.client.get(f"{PATH}/userinfo", headers={"authorization": shown})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    browser.clock.advance(seconds=GOOD_S)
    late = await browser.client.get(f"{PATH}/userinfo", headers={"authorization": f"Bearer {tokens['access_token']}"})
    assert late.status_code == 401


async def test_logging_out_leads_back_on_this_machine_only(browser: Browser) -> None:
    back = {"post_logout_redirect_uri": f"{BASE}/search", "state": "s"}
    answer = await browser.client.get(f"{PATH}/logout", params=back)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{BASE}/search?state=s")
    elsewhere = await browser.client.get(f"{PATH}/logout?post_logout_redirect_uri=https://evil.example")
    assert elsewhere.status_code == 400
    assert "logged out" in (await browser.client.get(f"{PATH}/logout")).text


async def test_what_it_has_issued_stays_good_when_it_starts_again(tmp_path: Path) -> None:
    async with browser_of(tmp_path, clock := MovedClock()) as before:
        token = (await Browser(before, clock).token(await Browser(before, clock).code())).json()["access_token"]
    assert (tmp_path / "issuer.pem").stat().st_mode & 0o777 == 0o600
    async with browser_of(tmp_path, clock) as after:
        answer = await after.get(f"{PATH}/userinfo", headers={"authorization": f"Bearer {token}"})
    assert answer.json()["sub"] == "seller-01"
    async with browser_of(tmp_path / "other", clock) as other:
        assert (await other.get(f"{PATH}/userinfo", headers={"authorization": f"Bearer {token}"})).status_code == 401


async def test_tools_log_in_as_browsers_do(tmp_path: Path) -> None:
    port = free_ports()
    base = f"http://127.0.0.1:{port}"
    with pytest.raises(Unavailable, match=f"no issuer answers at {base}{PATH}"):
        await token_of(base, "otto")
    async with listening(Site([DevelopmentIssuer(PEOPLE, tmp_path, base, MovedClock())]), "127.0.0.1", port):
        claims = jwt.decode(await token_of(base, "otto"), options={"verify_signature": False})
        assert (claims["iss"], claims["sub"], claims["roles"]) == (base + PATH, "otto", ["operator", "seller"])
        with pytest.raises(ChimeraError, match="does not let 'stranger' in"):
            await token_of(base, "stranger")
