"""API keys: how programs show them, how they are made, and that nothing else is one."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from chimera.web.identity.api_keys import LONGEST, ApiKeys, digest_of
from chimera.web.identity.settings import ApiKey, Identity
from chimera.web.identity.ways import NotKnown
from chimera_new.keys import key
from tests.web.identity.issuer import served

ROBOT, OLD = "chimera_" + "r" * 43, "chimera_" + "o" * 43
KEYS = [
    ApiKey(name="robot", digest=digest_of(ROBOT), roles=["editor"], tenant="red"),
    ApiKey(name="robot", digest=digest_of(OLD), roles=["editor"], tenant="red"),
    ApiKey(name="reader", digest=digest_of("x" * 40)),
]


async def test_a_program_shows_its_key_in_either_header() -> None:
    async with served(Identity(api_keys=KEYS)) as desk:
        found = {"subject": "robot", "roles": ["editor"], "tenant": "red", "claims": {}}
        assert await desk.me(authorization=f"ApiKey {ROBOT}") == (200, found)
        assert await desk.me(x_api_key=ROBOT) == (200, found)
        assert await desk.me(x_api_key=OLD) == (200, found), "an old key goes on beside the new one"
        assert await desk.me(authorization=f"apikey {ROBOT}", x_api_key=OLD) == (200, found)
        assert (await desk.client.put("/notes/a", json={}, headers={"x-api-key": "x" * 40})).status_code == 403


@pytest.mark.parametrize("shown", ["", "wrong", ROBOT[:-1], ROBOT + "x", digest_of(ROBOT), "x" * 5_000, "ä"])
async def test_any_other_key_is_refused_and_never_anonymous(shown: str) -> None:
    async with served(Identity(api_keys=KEYS)) as desk:
        for header, value in (("x-api-key", shown), ("authorization", f"ApiKey {shown}")):
            answer = await desk.client.get("/greeting", headers=[(header.encode(), value.encode("latin-1"))])
            assert (answer.status_code, answer.json()["detail"]) == (401, "the API key is none that is known here")
            assert answer.headers["www-authenticate"] == "ApiKey"


@given(st.text(max_size=2 * LONGEST))
def test_whatever_is_shown_as_a_key_is_refused(shown: str) -> None:
    with pytest.raises(NotKnown):
        ApiKeys(KEYS).read(shown)


def test_a_key_is_made_for_a_program_with_the_lines_of_its_settings() -> None:
    made = CliRunner().invoke(key, ["new", "robot", "--role", "editor"])
    assert made.exit_code == 0
    shown, _, rest = made.stdout.partition("\n")
    entry: dict[str, Any] = tomllib.loads(rest)["identity"]["api_keys"][0]
    assert entry == {"name": "robot", "digest": digest_of(shown), "roles": ["editor"]}
    assert ApiKeys([ApiKey(**entry)]).read(shown).subject == "robot"
    assert shown not in rest
    assert shown != CliRunner().invoke(key, ["new", "robot"]).stdout.partition("\n")[0]


@pytest.mark.parametrize("name", ["", "system", 'a"b', "a\nb"])
def test_what_is_no_name_of_a_program_gets_no_key(name: str) -> None:
    assert CliRunner().invoke(key, ["new", name]).exit_code == 2
