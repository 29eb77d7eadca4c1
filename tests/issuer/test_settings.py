"""Where the issuer is served, as whom one can log in, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.core.clock import Clock
from chimera.errors import SettingsError
from chimera.run.front.issuing import issuing_at, variables_of
from chimera.run.settings import Settings, read_settings
from chimera.web.identity.people import People, Person
from chimera_issuer.cli import one_of
from chimera_issuer.grants import is_of_this_machine
from chimera_issuer.keys import kept_key

BASE = "http://127.0.0.1:8000"
TOML = """
[services.shop]
app = "shop:shop"

[[issuer.people]]
subject = "ann"
name = "Ann"
roles = ["seller"]

[[issuer.people]]
subject = "bob"
roles = ["seller", "operator"]
"""


def settings(folder: Path, toml: str = TOML, **overrides: object) -> Settings:
    (folder / "chimera.toml").write_text(toml)
    return read_settings(folder / "chimera.toml", {}, {"state": str(folder), **overrides})


def served(found: Settings, **changes: Any) -> Settings:
    people: dict[str, Any] = {"people": found.issuer.people, "serve": True} | changes
    found.issuer = People(**people)
    return found


def test_people_in_the_settings_are_only_that_until_they_are_served(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert [person.shown for person in found.issuer.people] == ["Ann (ann)", "bob"]
    assert issuing_at(found, BASE, Clock()) == (found, [])
    assert not (tmp_path / "issuer.pem").exists()
    believing, parts = issuing_at(served(found), BASE, Clock())
    assert len(parts) == 1
    assert [each.issuer for each in believing.identity.issuers] == [f"{BASE}/_issuer"]
    assert {path.name for path in tmp_path.iterdir()} == {"chimera.toml", "issuer.pem", "sessions.key"}


def test_an_issuer_of_another_port_is_replaced_and_others_stay(tmp_path: Path) -> None:
    toml = TOML + "".join(
        f'[[identity.issuers]]\nissuer = "{issuer}"\naudience = "a"\nprefix = "{issuer[-1]}:"\n'
        for issuer in ("http://127.0.0.1:7777/_issuer", "https://login.example.com")
    )
    believing = issuing_at(served(settings(tmp_path, toml)), BASE, Clock()).settings
    assert [each.issuer for each in believing.identity.issuers] == [f"{BASE}/_issuer", "https://login.example.com"]


def test_other_processes_believe_the_same_and_share_sessions(tmp_path: Path) -> None:
    toml = TOML + '[[identity.issuers]]\nissuer = "https://login.example.com"\naudience = "a \\"b\\""\nprefix = "é:"\n'
    believing = issuing_at(served(settings(tmp_path, toml)), BASE, Clock()).settings
    again = read_settings(tmp_path / "chimera.toml", variables_of(believing))
    assert again.identity.issuers == believing.identity.issuers
    assert again.identity.sessions == believing.identity.sessions
    later = issuing_at(served(settings(tmp_path, toml)), BASE, Clock()).settings
    assert later.identity.sessions == believing.identity.sessions
    assert variables_of(settings(tmp_path, toml)) == {}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "shop.example", "::"])
def test_it_is_not_served_where_others_reach_it(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="lets everybody in without a password, so it is for this machine"):
        issuing_at(served(settings(tmp_path, host=host)), f"http://{host}:8000", Clock())


@pytest.mark.parametrize(
    ("people", "says"),
    [([], "has nobody; add"), ([Person(subject="a"), Person(subject="a")], "has two people with one subject")],
)
def test_people_are_told_apart(tmp_path: Path, people: list[Person], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        issuing_at(served(settings(tmp_path), people=people), BASE, Clock())


@pytest.mark.parametrize(
    ("who", "says"),
    [("seller", "'seller' is several people; there are: ann"), ("eve", "'eve' is nobody; there are: ann")],
)
def test_who_is_meant_is_one_person(tmp_path: Path, who: str, says: str) -> None:
    people = settings(tmp_path).issuer
    assert one_of(people, "ann").subject == "ann"
    assert one_of(people, "operator").subject == "bob"
    with pytest.raises(SettingsError, match=says):
        one_of(people, who)
    with pytest.raises(SettingsError, match="there is nobody to log in as"):
        one_of(People(), who)


@pytest.mark.parametrize("written", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_holds_no_key_is_told_with_what_to_do(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "issuer.pem").write_bytes(written)
    with pytest.raises(SettingsError, match=r"issuer.pem: .*remove it, and one is made"):
        kept_key(tmp_path / "issuer.pem")


HOSTS = st.sampled_from(["127.0.0.1", "localhost", "[::1]", "evil.example", "10.0.0.1", "127.0.0.1.evil.example", ""])


@given(
    st.text()
    | st.builds(
        "{0}://{1}{2}{3}".format,
        st.sampled_from(["http", "https", "ftp", "javascript", ""]),
        HOSTS,
        st.sampled_from(["", ":80", ":x", "@evil.example", "\\@evil.example", "%2eevil.example", "\n"]),
        st.text(max_size=8).map("/{}".format),
    )
)
def test_an_address_of_this_machine_has_a_host_that_only_it_reaches(uri: str) -> None:
    if is_of_this_machine(uri):
        parts = urlsplit(uri)
        assert parts.hostname in ("127.0.0.1", "localhost", "::1")
        assert parts.netloc.rpartition(":")[0] in ("", "127.0.0.1", "localhost", "[::1]", "[:", "[::")
        assert "\n" not in uri
        assert "@" not in parts.netloc
        assert "\\" not in parts.netloc


def test_every_issuer_of_this_machine_can_be_written_as_settings(tmp_path: Path) -> None:
    table: Mapping[str, object] = {"people": [{"subject": "ann"}], "serve": "true"}
    assert settings(tmp_path, issuer=table).issuer == People(people=[Person(subject="ann")], serve=True)
    with pytest.raises(SettingsError, match="there is no such setting"):
        settings(tmp_path, issuer={"person": []})
