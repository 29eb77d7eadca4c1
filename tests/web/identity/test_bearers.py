"""Tokens of an issuer over real HTTP: what makes one good, all that does not, an issuer that changes and goes away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.testing.waiting import eventually
from chimera.web.identity.settings import Identity, Issuer, KeyTimes
from tests.web.identity.issuer import (
    EC_KEY,
    ED_KEY,
    OTHER_RSA_KEY,
    RSA_KEY,
    WEAK_KEY,
    Desk,
    MovedTime,
    SmallIssuer,
    issuing,
    jwk,
    served,
    text,
)

TIMES = KeyTimes()


@pytest.fixture
async def issuer() -> AsyncIterator[SmallIssuer]:
    async with issuing() as found:
        yield found


@pytest.fixture
async def desk(issuer: SmallIssuer) -> AsyncIterator[Desk]:
    async with served(identity_of(issuer)) as found:
        yield found


def identity_of(*issuers: SmallIssuer, **more: Any) -> Identity:
    return Identity(issuers=[Issuer(**each.settings(**more)) for each in issuers])


async def test_a_good_token_says_who_asks_with_her_roles_and_scopes_and_nothing_else_of_it_is_kept(
    issuer: SmallIssuer, desk: Desk
) -> None:
    token = issuer.token(scope="read write", email="ann@example.com", name="Ann")
    found = {"subject": "ann", "roles": ["editor"], "tenant": "", "claims": {"scope": "read write"}}
    assert await desk.me(token) == (200, found)
    assert await desk.me(token) == (200, found), "it is remembered as it was"


async def test_roles_and_tenants_are_found_by_name_or_by_a_path(issuer: SmallIssuer) -> None:
    nested: dict[str, Any] = {
        "realm_access": {"roles": ["boss"]},
        "https://x.example/team": "red",
        "org": {"id": "blue"},
    }
    for settings_, found in (
        ({"roles": "realm_access.roles", "tenant": "org.id"}, (["boss"], "blue", {})),
        ({"roles": "missing", "tenant": "https://x.example/team"}, ([], "red", {})),
        ({"claims": ["org.id", "none"]}, (["editor"], "", {"org.id": "blue"})),
    ):
        async with served(identity_of(issuer, **settings_)) as desk:
            status, told = await desk.me(issuer.token(**nested))
            assert (status, told["roles"], told["tenant"], told["claims"]) == (200, *found)


async def test_nobody_is_anonymous_only_without_a_credential(issuer: SmallIssuer, desk: Desk) -> None:
    assert (await desk.client.get("/greeting")).json() == "nobody"
    for shown in ("Bearer", "Bearer ", "Bearer x", "Basic eDp5", "", "Bearer a.b.c", "ApiKey x", "Bearer\t"):
        answer = await desk.client.get("/greeting", headers={"authorization": shown})
        assert (answer.status_code, answer.json()["reason"]) == (401, "bad_credentials"), shown
        assert answer.headers["www-authenticate"] == "Bearer"
    twice = [("authorization", f"Bearer {issuer.token()}")] * 2
    assert (await desk.client.get("/greeting", headers=twice)).status_code == 401
    assert (await desk.client.get("/me")).json()["reason"] == "unauthenticated"


def public_pem() -> bytes:
    return RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def unsigned(issuer: SmallIssuer, algorithm: str = "none") -> str:
    body = issuer.token().split(".")[1]
    return f"{text(json.dumps({'alg': algorithm, 'kid': 'one'}).encode())}.{body}."


def keyed_with_the_public_key(issuer: SmallIssuer) -> str:
    """The classic: HMAC with what everybody knows, as if it were a secret."""
    _, body, _ = issuer.token().split(".")
    signed = f"{text(json.dumps({'alg': 'HS256', 'kid': 'one'}).encode())}.{body}"
    return f"{signed}.{text(hmac.digest(public_pem(), signed.encode(), hashlib.sha256))}"


def changed(issuer: SmallIssuer) -> str:
    head, body, signature = issuer.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{head}.{text(json.dumps({**claims, 'sub': 'boss'}).encode())}.{signature}"


def at(seconds: int) -> int:
    """So many seconds from now, when the token is made, which may be long after this file is read."""
    return int(time.time()) + seconds


BAD: list[tuple[str, Any, str]] = [
    ("no signature", unsigned, "not signed with a key that only its issuer has"),
    ("no signature, in other letters", lambda i: unsigned(i, "nOnE"), "not signed with a key that only"),
    ("HMAC with the public key", keyed_with_the_public_key, "not signed with a key that only"),
    ("HMAC", lambda i: i.token(key="k" * 64, algorithm="HS256"), "not signed with a key that only"),
    ("another subject in it", changed, "signature is wrong"),
    ("another's key under its id", lambda i: i.token(key=OTHER_RSA_KEY), "signature is wrong"),
    ("an unknown key", lambda i: i.token(kid="none", key=OTHER_RSA_KEY), "does not have, or not any more"),
    ("an algorithm of another kind of key", lambda i: i.token(key=EC_KEY, algorithm="ES256"), "not for that"),
    ("another audience", lambda i: i.token(aud="elsewhere"), "for another audience"),
    ("an empty audience", lambda i: i.token(aud=""), "does not say its 'aud'"),
    ("no audience", lambda i: i.token(aud=None), "does not say its 'aud'"),
    ("an audience of numbers", lambda i: i.token(aud=[1]), "another audience"),
    ("another issuer", lambda i: i.token(iss="https://other.example"), "an issuer that is not believed"),
    ("no issuer", lambda i: i.token(iss=None), "can't be read"),
    ("expired", lambda i: i.token(exp=at(-120)), "has expired"),
    ("no end", lambda i: i.token(exp=None), "does not say its 'exp'"),
    ("an end that is no time", lambda i: i.token(exp="soon"), "no time"),
    ("an end that is no number", lambda i: i.token(exp=float("nan")), "no time"),
    ("an end of true", lambda i: i.token(exp=True), "no time"),
    ("not yet", lambda i: i.token(nbf=at(300)), "not good yet"),
    ("made tomorrow", lambda i: i.token(iat=at(90_000), exp=at(99_000)), "not good yet"),
    ("no subject", lambda i: i.token(sub=None), "does not say its 'sub'"),
    ("an empty subject", lambda i: i.token(""), "names no subject"),
    ("a subject of numbers", lambda i: i.token(sub=7), "names no subject"),
    ("what stands for the system", lambda i: i.token("system"), "nobody is known as 'system'"),
    ("half a character", lambda i: i.token("\ud800"), "can't be kept"),
    ("roles that are none", lambda i: i.token(roles={"a": 1}), "no list of texts"),
    ("more than travels", lambda i: i.token(scope="x" * 9_000 + " y" * 4_000), "can't be read"),
    ("what must be understood", lambda i: i.token(header={"crit": ["exp"]}), "can't be read|not known here"),
    ("a key by its address", lambda i: i.token(kid="k" * 999), "can't be read"),
]


@pytest.mark.parametrize(("made", "why"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
async def test_any_other_token_is_refused_with_its_reason(issuer: SmallIssuer, desk: Desk, made: Any, why: str) -> None:
    token = made(issuer)
    for path in ("/me", "/greeting"):
        answer = await desk.client.get(path, headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401, path
        assert re.search(why, answer.json()["detail"]), answer.json()
        assert token not in answer.text


async def test_a_key_that_a_token_brings_along_is_not_believed(issuer: SmallIssuer, desk: Desk) -> None:
    header = {"jwk": jwk("one", OTHER_RSA_KEY), "jku": f"{issuer.base}/evil", "x5u": f"{issuer.base}/evil"}
    status, told = await desk.me(issuer.token(key=OTHER_RSA_KEY, header=header))
    assert (status, told["detail"]) == (401, "the token's signature is wrong")
    assert "/evil" not in issuer.asked


async def test_clocks_may_differ_by_half_a_minute(issuer: SmallIssuer, desk: Desk) -> None:
    now = int(time.time())
    assert (await desk.me(issuer.token(exp=now - 20)))[0] == 200
    assert (await desk.me(issuer.token(iat=now + 20, nbf=now + 20)))[0] == 200
    assert (await desk.me(issuer.token(exp=now - 40)))[0] == 401


async def test_each_kind_of_key_that_only_the_issuer_has_will_do(issuer: SmallIssuer) -> None:
    issuer.shown = [
        jwk("r", RSA_KEY),
        jwk("e", EC_KEY, alg="ES256"),
        jwk("d", ED_KEY),
        jwk("ps", OTHER_RSA_KEY, alg="PS256"),
    ]
    async with served(identity_of(issuer)) as desk:
        good = [("r", RSA_KEY, "RS256"), ("r", RSA_KEY, "PS512"), ("e", EC_KEY, "ES256"), ("d", ED_KEY, "EdDSA")]
        for kid, key, algorithm in [*good, ("ps", OTHER_RSA_KEY, "PS256")]:
            assert (await desk.me(issuer.token(kid=kid, key=key, algorithm=algorithm)))[0] == 200, (kid, algorithm)
        wrong = await desk.me(issuer.token(kid="ps", key=OTHER_RSA_KEY, algorithm="RS256"))
        assert (wrong[0], wrong[1]["detail"]) == (401, "the token is signed with RS256, and its key is not for that")


async def test_keys_that_are_weak_secret_or_for_something_else_are_not_used(issuer: SmallIssuer) -> None:
    secret = {"kty": "oct", "kid": "s", "k": text(b"k" * 64), "use": "sig"}
    private = {**jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_RSA_KEY, as_dict=True), "kid": "p"}
    odd: list[Any] = [{"kty": "RSA", "kid": "half", "n": "x"}, {"kty": 7}, {"kid": 7, "kty": "RSA"}, {}]
    issuer.shown = [jwk("w", WEAK_KEY), secret, private, jwk("enc", EC_KEY, use="enc"), *odd, jwk("one", RSA_KEY)]
    async with served(identity_of(issuer)) as desk:
        assert (await desk.me(issuer.token()))[0] == 200
        tries = [("s", "k" * 64, "HS256"), ("p", OTHER_RSA_KEY, "RS256"), ("enc", EC_KEY, "ES256")]
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            weak = issuer.token(kid="w", key=WEAK_KEY)
        assert (await desk.me(weak))[0] == 401
        for kid, key, algorithm in tries:
            assert (await desk.me(issuer.token(kid=kid, key=key, algorithm=algorithm)))[0] == 401, kid


async def test_a_token_without_a_key_id_will_do_where_the_issuer_has_one_key_only(issuer: SmallIssuer) -> None:
    async with served(identity_of(issuer)) as desk:
        assert (await desk.me(issuer.token(kid=None)))[0] == 200
    issuer.shown.append(jwk("two", EC_KEY))
    async with served(identity_of(issuer)) as desk:
        assert (await desk.me(issuer.token(kid=None)))[0] == 401


async def test_a_new_key_is_learnt_when_it_is_first_used_and_an_old_one_forgotten(issuer: SmallIssuer) -> None:
    clock = MovedTime()
    async with served(identity_of(issuer), clock=clock) as desk:
        assert (await desk.me(issuer.token()))[0] == 200
        issuer.shown.append(jwk("two", EC_KEY))
        clock.moved += TIMES.least_s + 1
        new: dict[str, Any] = {"kid": "two", "key": EC_KEY, "algorithm": "ES256"}
        assert (await desk.me(issuer.token(**new)))[0] == 200
        assert (await desk.me(issuer.token("bob")))[0] == 200, "both are good for a while"
        issuer.shown = issuer.shown[1:]
        clock.moved += 61  # what was checked is remembered for a minute
        late = int(time.time()) + 3_000
        assert (await desk.me(issuer.token("eve", exp=late)))[0] == 200, (
            "it is believed until the keys are asked for anew"
        )
        clock.moved += TIMES.fresh_s
        await desk.me(issuer.token(**new, exp=late))

        async def is_forgotten() -> bool:
            return (await desk.me(issuer.token("eve", exp=late)))[0] == 401

        await eventually(is_forgotten)
        assert (await desk.me(issuer.token(**new, exp=late)))[0] == 200


async def statuses(desk: Desk, tokens: list[str]) -> set[int]:
    """How tokens that are shown at once are answered."""
    return {status for status, _ in await asyncio.gather(*map(desk.me, tokens))}


async def test_unknown_keys_make_us_ask_the_issuer_once_in_a_while_however_many_there_are(issuer: SmallIssuer) -> None:
    clock = MovedTime()
    async with served(identity_of(issuer), clock=clock) as desk:
        assert {status for status, _ in await asyncio.gather(*(desk.me(issuer.token(f"p{n}")) for n in range(50)))} == {
            200
        }
        assert issuer.asked.count("/keys") == 1, "those who came at once have shared one answer"
        strange = [issuer.token(kid=f"k{n}", key=OTHER_RSA_KEY) for n in range(50)]
        for _ in range(3):
            assert await statuses(desk, strange) == {401}
        assert issuer.asked.count("/keys") == 1
        clock.moved += TIMES.least_s + 1
        assert await statuses(desk, strange) == {401}
        assert issuer.asked.count("/keys") == 2


async def test_an_issuer_that_is_away_keeps_nobody_out_who_was_known_by_its_keys(issuer: SmallIssuer) -> None:
    clock = MovedTime()
    async with served(identity_of(issuer), clock=clock) as desk:
        assert (await desk.me(issuer.token()))[0] == 200
        issuer.is_away = True
        clock.moved += TIMES.fresh_s + 1
        late = int(time.time()) + 3_000
        assert (await desk.me(issuer.token("bob", exp=late)))[0] == 200
        assert (await desk.me(issuer.token("bob", exp=late, kid="new", key=EC_KEY, algorithm="ES256")))[0] == 401


async def test_an_issuer_that_was_never_there_lets_nobody_in_and_says_come_again(issuer: SmallIssuer) -> None:
    clock = MovedTime()
    issuer.is_away = True
    async with served(identity_of(issuer), clock=clock) as desk:
        answers = await asyncio.gather(
            *(desk.client.get("/greeting", headers={"authorization": f"Bearer {issuer.token()}"}) for _ in range(20))
        )
        assert {each.status_code for each in answers} == {503}
        assert answers[0].headers["retry-after"] == "1"
        assert issuer.base in answers[0].json()["detail"]
        assert len(issuer.asked) == 1
        assert (await desk.client.get("/greeting")).json() == "nobody", "who shows nothing needs no issuer"
        issuer.is_away = False
        clock.moved += TIMES.again_s
        assert (await desk.me(issuer.token()))[0] == 200


@pytest.mark.parametrize(
    "says",
    [
        {"issuer": "https://other.example"},
        {"jwks_uri": "http://elsewhere.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": 7},
        {"token_endpoint": "http://[broken"},
    ],
    ids=str,
)
async def test_an_issuer_that_says_odd_things_of_itself_is_none(issuer: SmallIssuer, says: dict[str, Any]) -> None:
    issuer.says = says
    async with served(identity_of(issuer)) as desk:
        assert (await desk.me(issuer.token()))[0] == 503


async def test_two_issuers_do_not_tell_of_each_others_people(issuer: SmallIssuer) -> None:
    async with issuing() as other:
        both = Identity(
            issuers=[
                Issuer(**issuer.settings()),
                Issuer(**other.settings(prefix="b:", roles="groups", audience="desk-b")),
            ]
        )
        async with served(both) as desk:
            assert (await desk.me(issuer.token("7")))[1]["subject"] == "7"
            found = (await desk.me(other.token("7", aud="desk-b", groups=["x"])))[1]
            assert (found["subject"], found["roles"]) == ("b:7", ["x"])
            assert (await desk.me(issuer.token("b:7")))[0] == 401
            assert (await desk.me(other.token("7")))[0] == 401, "each has an audience of its own"


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["RS256", "ES256", "none", "one", ""]))
HEADS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), VALUES | st.lists(VALUES))
CLAIMS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=5)),
    lambda inner: st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "roles"]), inner, max_size=4),
    max_leaves=6,
)
PARTS = st.tuples(*(each.map(lambda made: json.dumps(made).encode()) for each in (HEADS, CLAIMS)), st.binary())
GARBAGE = st.one_of(
    st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=200),
    st.lists(st.binary(max_size=60).map(text), min_size=3, max_size=5).map(".".join),
    PARTS.map(lambda parts: ".".join(map(text, parts))),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(GARBAGE, min_size=20, max_size=40))
def test_whatever_is_shown_as_a_token_is_401(garbage: list[str]) -> None:
    async def shown_all() -> None:
        async with issuing() as issuer, served(identity_of(issuer)) as desk:
            for shown in garbage:
                headers = [(b"authorization", f"Bearer {shown}".encode("latin-1"))]
                assert (await desk.client.get("/greeting", headers=headers)).status_code == 401, shown

    asyncio.run(shown_all())


async def test_a_token_whose_every_byte_is_changed_is_refused(issuer: SmallIssuer, desk: Desk) -> None:
    token = issuer.token()
    for at in range(0, len(token), 7):
        other = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        assert (await desk.me(other))[0] == 401, at
