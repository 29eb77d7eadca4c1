"""Pages log people in at an issuer, over real HTTP; what they may then send, and what pages of others may not."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera import Caller
from chimera.core.context import Reach
from chimera.web.identity.api_keys import digest_of
from chimera.web.identity.settings import ApiKey, Identity, Issuer
from tests.web.identity.issuer import (
    CLIENT,
    OTHER_RSA_KEY,
    SECRET,
    Desk,
    MovedTime,
    SmallIssuer,
    issuing,
    served,
)

PAGE = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
OWN = {"sec-fetch-site": "same-origin"}


@pytest.fixture
async def issuer() -> AsyncIterator[SmallIssuer]:
    async with issuing() as found:
        yield found


def identity_of(issuer: SmallIssuer, **more: Any) -> Identity:
    return Identity(issuers=[Issuer(**issuer.settings(client_id=CLIENT, client_secret=SECRET))], **more)


@asynccontextmanager
async def desk_of(issuer: SmallIssuer, *, base: str = "http://desk.test", **options: Any) -> AsyncIterator[Desk]:
    more = options.pop("more", {})
    async with served(identity_of(issuer, **more), base=base, **options) as desk:
        yield desk


async def begin(desk: Desk, path: str = "/me?x=1") -> httpx.Response:
    """The issuer's answer to a browser that has asked for a page, and was sent there."""
    sent = await desk.client.get(path, headers=PAGE)
    assert sent.status_code == 303, sent.text
    to_login = await desk.client.get(sent.headers["location"], headers=PAGE)
    assert to_login.status_code == 303, to_login.text
    async with httpx.AsyncClient() as browser:
        return await browser.get(to_login.headers["location"])


async def log_in(desk: Desk, path: str = "/me?x=1") -> httpx.Response:
    """The answer at the end of a login that began with a page."""
    back = await begin(desk, path)
    assert back.status_code == 302
    return await desk.client.get(back.headers["location"], headers=PAGE)


async def test_a_browser_that_asks_for_a_page_is_sent_to_log_in_and_comes_back_to_it(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        done = await log_in(desk, "/me?x=%C3%A4%2F&y=2")
        assert (done.status_code, done.headers["location"]) == (303, "/me?x=%C3%A4%2F&y=2")
        [session, gone] = done.headers.get_list("set-cookie")
        assert re.fullmatch(r"chimera_session=[\w=-]+; Path=/; SameSite=Lax; Max-Age=28800; HttpOnly", session), session
        assert "chimera_session_login=; " in gone
        assert "Max-Age=0" in gone
        assert (await desk.me())[1]["subject"] == "ann"


async def test_below_a_path_people_log_in_there(issuer: SmallIssuer) -> None:
    async with desk_of(issuer, below_path="/shop") as desk:
        sent = await desk.client.get("/shop/me", headers=PAGE)
        assert sent.headers["location"] == "/shop/_chimera/login?next=%2Fshop%2Fme"
        done = await log_in(desk, "/shop/me")
        assert (done.status_code, done.headers["location"]) == (303, "/shop/me")
        assert (await desk.client.get("/shop/me")).json()["subject"] == "ann"


async def test_an_operator_who_is_logged_in_is_one_for_what_chimera_adds(issuer: SmallIssuer) -> None:
    reach = Reach(is_open=False)
    for roles, status in ((["operator"], 200), (["editor"], 403)):
        issuer.person = {"sub": "ann", "roles": roles}
        async with desk_of(issuer, reach=reach) as desk:
            assert (await desk.client.get("/_chimera/desk/status")).status_code == 401
            await log_in(desk)
            assert (await desk.client.get("/_chimera/desk/status")).status_code == status
            token = {"authorization": f"Bearer {issuer.token('ann', roles=roles)}"}
            assert (await desk.client.get("/_chimera/desk/status", headers=token)).status_code == status
            assert (await desk.client.get("/_chimera/desk/journal?partition=0", headers=token)).status_code == status


async def test_what_is_no_page_is_told_and_not_sent_anywhere(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        assert (await desk.client.get("/me")).status_code == 401
        assert (await desk.client.post("/notes", json={"note_id": "a"}, headers=PAGE)).status_code == 401
        shown = await desk.client.get("/me", headers={**PAGE, "authorization": "Bearer wrong"})
        assert shown.status_code == 401


async def test_with_tls_the_cookie_is_for_tls_and_this_host_only(issuer: SmallIssuer) -> None:
    for base, more in (("https://desk.test", {}), ("http://inside", {"url": "https://desk.test/"})):
        async with desk_of(issuer, base=base, more=more) as desk:
            to_login = await desk.client.get("/_chimera/login?next=/me")
            asked = parse_qs(urlsplit(to_login.headers["location"]).query)
            assert asked["redirect_uri"] == ["https://desk.test/_chimera/callback"]
            assert "; Secure" in to_login.headers["set-cookie"]
            async with httpx.AsyncClient() as browser:
                back = await browser.get(to_login.headers["location"])
            cookie = to_login.headers["set-cookie"].partition(";")[0]
            path = back.headers["location"].removeprefix("https://desk.test")
            done = await desk.client.get(path, headers={"cookie": cookie})
            assert done.headers["set-cookie"].startswith("__Host-chimera_session=")
            assert "; Secure; HttpOnly" in done.headers["set-cookie"]


async def test_a_login_is_asked_for_with_pkce_state_and_nonce(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        asked = []
        for _ in range(2):
            sent = await desk.client.get("/_chimera/login")
            asked.append(parse_qs(urlsplit(sent.headers["location"]).query))
        assert [each["code_challenge_method"] for each in asked] == [["S256"]] * 2
        assert [each["response_type"] for each in asked] == [["code"]] * 2
        assert [each["scope"] for each in asked] == [["openid"]] * 2
        for name in ("state", "nonce", "code_challenge"):
            assert asked[0][name] != asked[1][name]
            assert len(asked[0][name][0]) == 43


NO_PATH = ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "/a b", "evil", "", "/\tx", "/ä"]
NO_PATH.append("/" + "x" * 2000)


@pytest.mark.parametrize("goes_on", NO_PATH)
async def test_a_login_goes_on_at_a_path_of_this_site_only(issuer: SmallIssuer, goes_on: str) -> None:
    async with desk_of(issuer) as desk:
        answer = await desk.client.get(f"/_chimera/login?next={quote(goes_on, safe='')}")
        assert (answer.status_code, answer.json()["field"]) == (400, "query.next")


async def come_back(desk: Desk, issuer: SmallIssuer, **changes: str) -> httpx.Response:
    """The answer to a browser that comes back with something else than the issuer has sent it with."""
    back = urlsplit((await begin(desk)).headers["location"])
    query = {name: values[0] for name, values in parse_qs(back.query).items()} | changes
    return await desk.client.get("/_chimera/callback", params=query)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "another"}, "not the login that was begun here"),
        ({"state": ""}, "not the login that was begun here"),
        ({"iss": "https://other.example"}, "another issuer answers"),
        ({"error": "access_denied"}, "access_denied"),
        ({"error": "<script>"}, "an error"),
        ({"code": ""}, "no code"),
        ({"code": "made-up"}, "gave nothing for its code"),
    ],
    ids=str,
)
async def test_who_comes_back_with_something_else_is_not_logged_in(
    issuer: SmallIssuer, changes: dict[str, str], why: str
) -> None:
    async with desk_of(issuer) as desk:
        answer = await come_back(desk, issuer, **changes)
        assert answer.status_code == 401
        assert why in answer.json()["detail"]
        assert "set-cookie" not in answer.headers
        assert (await desk.me())[0] == 401


async def test_a_browser_that_is_not_logged_in_is_shown_why_and_where_to_try_again(issuer: SmallIssuer) -> None:
    issuer.id_token = {"sub": "system"}
    async with desk_of(issuer) as desk:
        answer = await log_in(desk)
        assert (answer.status_code, answer.headers["cache-control"]) == (401, "no-store")
        assert "nobody is known as &#x27;system&#x27;" in answer.text
        assert '<a href="/_chimera/login">' in answer.text
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ({"nonce": "another"}, "not of this login"),
        ({"nonce": None}, "not of this login"),
        ({"aud": "another"}, "another audience"),
        ({"aud": [CLIENT, "b"]}, "another client"),
        ({"iss": "https://other.example"}, "an issuer that is not believed"),
        ({"exp": 1}, "expired"),
        ({"key": OTHER_RSA_KEY}, "signature is wrong"),
        ({"sub": ""}, "no subject"),
        ({"roles": [f"role-{n}" for n in range(500)]}, "does not fit"),
    ],
    ids=lambda each: each if isinstance(each, str) else str(sorted(each)),
)
async def test_an_id_token_that_is_not_of_this_login_logs_nobody_in(
    issuer: SmallIssuer, says: dict[str, Any], why: str
) -> None:
    async with desk_of(issuer) as desk:
        issuer.id_token = says
        answer = await desk.client.get((await begin(desk)).headers["location"])
        assert answer.status_code == 401
        assert why in answer.json()["detail"]


async def test_a_code_is_good_in_the_browser_that_asked_for_it_only_and_not_for_long(issuer: SmallIssuer) -> None:
    clock = MovedTime()
    async with desk_of(issuer, clock=clock) as desk:
        back = await begin(desk)
        own = dict(desk.client.cookies)
        desk.client.cookies.clear()
        stolen = await desk.client.get(back.headers["location"])
        assert (stolen.status_code, "no login was begun" in stolen.json()["detail"]) == (401, True)
        desk.client.cookies.update(own)
        clock.moved += 601
        assert (await desk.client.get(back.headers["location"])).status_code == 401


async def test_an_issuer_that_wants_its_secret_in_the_form_gets_it_there(issuer: SmallIssuer) -> None:
    issuer.methods = ["client_secret_post"]
    async with desk_of(issuer) as desk:
        assert (await log_in(desk)).status_code == 303


async def test_an_issuer_that_is_away_logs_nobody_in_and_says_come_again(issuer: SmallIssuer) -> None:
    issuer.is_away = True
    async with desk_of(issuer) as desk:
        answer = await desk.client.get("/_chimera/login")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_session_ends_in_time_and_a_page_asks_to_log_in_anew(issuer: SmallIssuer) -> None:
    clock = MovedTime()
    async with desk_of(issuer, clock=clock, more={"session_s": 3_600.0}) as desk:
        await log_in(desk)
        cookies = dict(desk.client.cookies)
        clock.moved += 3_599
        assert (await desk.me())[0] == 200
        clock.moved += 2
        desk.client.cookies.update(cookies)
        status, told = await desk.me()
        assert (status, told["detail"]) == (401, "the session is over; log in again")
        assert (await desk.client.get("/me", headers=PAGE)).status_code == 303


async def test_secrets_are_rotated_with_overlap(issuer: SmallIssuer) -> None:
    old, new = "o" * 40, "n" * 40
    async with desk_of(issuer, secrets=[old]) as desk:
        await log_in(desk)
        cookies = dict(desk.client.cookies)
    for secrets, status in (([new, old], 200), ([new], 401)):
        async with desk_of(issuer, secrets=secrets) as desk:
            desk.client.cookies.update(cookies)
            assert (await desk.me())[0] == status


async def test_a_cookie_of_a_login_is_no_session(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        await begin(desk)
        login = dict(desk.client.cookies)["chimera_session_login"]
        desk.client.cookies.clear()
        assert (await desk.me(cookie=f"chimera_session={login}"))[0] == 401
        own = desk.callers.sessions
        assert own is not None
        session = own.begin(Caller("ann"), is_tls=False).value
        answer = await desk.client.get("/_chimera/callback", headers={"cookie": f"chimera_session_login={session}"})
        assert answer.status_code == 401


async def test_logging_out_takes_a_page_of_ours_and_ends_the_session(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        await log_in(desk)
        asked = await desk.client.get("/_chimera/logout", headers=PAGE)
        assert '<form method="post" action="/_chimera/logout">' in asked.text
        assert (await desk.me())[0] == 200, "a link does not log out"
        assert (await desk.client.post("/_chimera/logout")).status_code == 403
        assert (await desk.client.post("/_chimera/logout", headers={"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await desk.me())[0] == 200
        ended = await desk.client.post("/_chimera/logout", headers={**PAGE, **OWN})
        assert f'href="{issuer.base}/end?client_id={CLIENT}"' in ended.text
        assert (await desk.me())[0] == 401
        assert (await desk.client.post("/_chimera/logout")).status_code == 204


FOREIGN = [
    {},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "http://desk.test"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://desk.test.evil.example"},
    {"origin": "http://[broken"},
    {"x-csrf-token": "wrong"},
    {"x-csrf-token": ""},
    {"referer": "http://desk.test/"},
]
OURS = [
    {"sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none"},
    {"origin": "http://desk.test"},
    {"origin": "https://shop.example", "x-forwarded-host": "shop.example"},
]


async def test_what_changes_anything_must_come_from_a_page_of_ours(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        await log_in(desk)
        for number, headers in enumerate(FOREIGN):
            answer = await desk.client.put(f"/notes/f{number}", json={}, headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (403, "cross_origin"), headers
            assert (await desk.client.get(f"/notes/f{number}")).status_code == 404
            assert (await desk.client.get("/me", headers=headers)).status_code == 200, "reading is harmless"
        for number, headers in enumerate(OURS):
            answer = await desk.client.put(f"/notes/o{number}", json={}, headers=headers)
            assert answer.status_code == 200, headers


async def test_a_program_with_a_session_shows_its_proof(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        assert (await desk.client.get("/_chimera/session")).status_code == 401
        await log_in(desk)
        told = (await desk.client.get("/_chimera/session")).json()
        assert (told["subject"], told["roles"], told["tenant"]) == ("ann", ["editor"], "")
        assert 28_000 < told["ends_in_s"] <= 28_800
        shown = {"x-csrf-token": told["x-csrf-token"]}
        assert (await desk.client.put("/notes/a", json={}, headers=shown)).status_code == 200
        first = told["x-csrf-token"]
        desk.client.cookies.clear()
        await log_in(desk)
        assert (await desk.client.put("/notes/b", json={}, headers={"x-csrf-token": first})).status_code == 403


async def test_without_a_session_nothing_of_that_is_asked(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        headers = {"authorization": f"Bearer {issuer.token()}", "sec-fetch-site": "cross-site"}
        assert (await desk.client.put("/notes/a", json={}, headers=headers)).status_code == 200


async def test_two_credentials_of_different_people_are_refused(issuer: SmallIssuer) -> None:
    key = ApiKey(name="ann", digest=digest_of("k" * 40), roles=["robot"])
    async with desk_of(issuer, more={"api_keys": [key]}) as desk:
        await log_in(desk)
        assert (await desk.me(issuer.token("ann")))[0] == 200
        status, told = await desk.me(issuer.token("bob"))
        assert (status, told["reason"]) == (401, "conflict")
        assert (await desk.me(x_api_key="k" * 40))[1]["roles"] == ["robot"], "the same name: the first way counts"
        assert (await desk.me(issuer.token("ann"), x_api_key="k" * 40))[1]["roles"] == ["editor"]
        assert (await desk.me(issuer.token("bob"), x_api_key="k" * 40))[0] == 401
        assert (await desk.me(issuer.token("ann"), x_api_key="wrong"))[0] == 401, "each that is shown must be good"


COOKIES = st.one_of(
    st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=200).filter(bool),
    st.binary(min_size=1, max_size=300).map(lambda data: Fernet(Fernet.generate_key()).encrypt(data).decode()),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(COOKIES, min_size=20, max_size=40))
def test_whatever_is_shown_as_a_session_is_401(garbage: list[str]) -> None:
    async def shown_all() -> None:
        async with issuing() as issuer, desk_of(issuer) as desk:
            for shown in garbage:
                headers = {"cookie": f"chimera_session={shown}; chimera_session_login={shown}"}
                is_empty = not shown.partition(";")[0].strip().strip('"')
                for path in ("/greeting", "/_chimera/callback?code=a&state=b", "/_chimera/session"):
                    answer = await desk.client.get(path, headers=headers)
                    assert answer.status_code == 401 or (is_empty and path == "/greeting"), (path, shown)

    asyncio.run(shown_all())


async def test_a_session_whose_every_part_is_changed_is_refused(issuer: SmallIssuer) -> None:
    async with desk_of(issuer) as desk:
        await log_in(desk)
        cookie = desk.client.cookies["chimera_session"]
        desk.client.cookies.clear()
        assert (await desk.me(cookie=f"chimera_session={cookie}"))[0] == 200
        for at in range(0, len(cookie) - 2, 11):
            other = cookie[:at] + ("A" if cookie[at] != "A" else "B") + cookie[at + 1 :]
            assert (await desk.me(cookie=f"chimera_session={other}"))[0] == 401, at


async def test_what_a_browser_keeps_tells_nothing(issuer: SmallIssuer) -> None:
    issuer.person = {"sub": "ann-of-the-north", "roles": ["editor"]}
    async with desk_of(issuer) as desk:
        back = await begin(desk, "/me?hidden=word")
        done = await desk.client.get(back.headers["location"])
        for name, value in desk.client.cookies.items():
            raw = base64.urlsafe_b64decode(value + "==")
            assert b"ann-of" not in raw, name
            assert b"hidden" not in raw, name
        assert "id_token" not in done.text
