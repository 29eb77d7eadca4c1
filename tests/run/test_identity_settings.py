"""The settings of `[identity]`: what is read of files, and each mistake in one line that says what to type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chimera import SettingsError
from chimera.run.settings import Settings, read_settings
from chimera.web.identity.api_keys import digest_of

PAGE = Path(__file__).parents[2] / "docs" / "identity.md"
SERVICES = '\n[services.shop]\napp = "shop:shop"\n'
ISSUER = '[[identity.issuers]]\nissuer = "https://login.example.com"\naudience = "shop"\n'
KEY = "[[identity.api_keys]]\n"
DIGEST = digest_of("k" * 40)


def settings_of(folder: Path, text: str) -> Settings:
    path = folder / "chimera.toml"
    path.write_text(text + SERVICES)
    return read_settings(path, {})


def test_secrets_are_read_from_files_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("a" * 32 + "\n" + "b" * 32 + "\n")
    (tmp_path / "client").write_text("hush\n")
    (tmp_path / "robots").write_text("r" * 40 + "\n" + "o" * 40)
    found = settings_of(
        tmp_path,
        f'[identity]\nsessions = ["file:sessions"]\n{ISSUER}client_id = "shop"\nclient_secret = "file:client"\n'
        f'{KEY}name = "robot"\nkey = "file:robots"\nroles = ["editor"]\n',
    ).identity
    assert found.sessions == ["a" * 32, "b" * 32]
    assert found.issuers[0].client_secret == "hush"
    assert [(each.name, each.digest, each.key, each.roles) for each in found.api_keys] == [
        ("robot", digest_of(letter * 40), "", ["editor"]) for letter in "ro"
    ]


def test_an_issuer_may_be_on_this_machine_without_tls_and_elsewhere_where_that_is_said(tmp_path: Path) -> None:
    for url, more in (("http://127.0.0.1:9000", ""), ("http://localhost", ""), ("http://issuer:80", "plain = true\n")):
        text = ISSUER.replace("https://login.example.com", url) + more
        assert settings_of(tmp_path, text).identity.issuers[0].issuer == url


def test_issuers_come_from_variables_too(tmp_path: Path) -> None:
    path = tmp_path / "chimera.toml"
    path.write_text(SERVICES)
    issuer = '[{issuer = "https://login.example.com", audience = "shop"}]'
    found = read_settings(path, {"CHIMERA_IDENTITY__ISSUERS": issuer})
    assert found.identity.issuers[0].audience == "shop"


@pytest.mark.parametrize(
    ("name", "text"), re.findall(r"```toml\n# ([\w-]+)\.toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
)
def test_what_the_page_shows_is_read(tmp_path: Path, name: str, text: str) -> None:
    secret = tmp_path / "sessions"
    secret.write_text("s" * 40)
    found = settings_of(tmp_path, text.replace("file:/run/secrets/sessions", f"file:{secret}")).identity
    assert found.certificates is not None, name
    assert found.is_set


CERTIFICATES = "[identity.certificates]\n"
MISTAKES = [
    (ISSUER.replace('audience = "shop"', ""), r'\[identity\] issuers has no audience; add audience = "…"'),
    (ISSUER.replace('"shop"', '""'), r'tokens for anybody would do; add audience = "…"'),
    (ISSUER + 'audiense = "x"\n', r"did you mean audience\?"),
    (ISSUER.replace("https:", "http:"), r"its keys could be exchanged for others; type https://…, or add plain = true"),
    (
        ISSUER.replace("https://login.example.com", "login.example.com"),
        r"no address of an issuer; one looks like https:",
    ),
    (ISSUER.replace("https://login.example.com", "https://[x"), r"no address of an issuer"),
    (ISSUER + 'client_secret = "x"\n', r"a client_secret without its client_id"),
    (ISSUER + 'client_id = "x"\nclient_secret = "file:none"\n', r"none can't be read \(No such file or directory\)"),
    (ISSUER + 'roles = ""\n', r'as in: roles = "realm_access.roles"'),
    (ISSUER + ISSUER, r"https://login.example.com stands there twice"),
    (ISSUER + ISSUER.replace("login", "other"), r'could call two people by one name; .* prefix = "other.example.com:"'),
    (
        '[identity]\nsessions = ["short"]\n' + ISSUER + 'client_id = "x"\n',
        r"sessions: a key has 5 characters; at least 32",
    ),
    ('[identity]\nsessions = ["file:none"]\n' + ISSUER + 'client_id = "x"\n', r"none can't be read"),
    ('[identity]\nsessions = ["' + "s" * 40 + '"]\n' + ISSUER, r"sessions: nobody logs in here; add client_id"),
    ('[identity]\ncookie = "a b"\n', r"cookie: 'a b' is no name of a cookie"),
    ('[identity]\nurl = "shop.example"\n', r"url: 'shop.example' is no address of pages"),
    ("[identity]\nsession_s = 0\n", r"\[identity\] session_s"),
    (KEY + 'name = "robot"\n', r"'robot' has no digest; make one: chimera key new robot"),
    (KEY + 'name = ""\n', r"'' is no name of a program"),
    (KEY + 'name = "system"\n' + f'digest = "{DIGEST}"\n', r"'system' is no name of a program"),
    (KEY + f'name = "robot"\ndigest = "{DIGEST}"\nkey = "file:x"\n', r"'robot' has both digest and key"),
    (KEY + 'name = "robot"\ndigest = "abc"\n', r"digest is a SHA-256, 64 characters in hexadecimal; make one: chimera"),
    (KEY + 'name = "robot"\nkey = "plain"\n', r'a key stands in a file: key = "file:/run/secrets/key"; or its digest'),
    (2 * (KEY + f'name = "robot"\ndigest = "{DIGEST}"\n'), r"the key of 'robot' stands there twice"),
    (CERTIFICATES, r'none is asked for; add \[http\] client_ca = "clients.pem", or header = "Client-Cert"'),
    (CERTIFICATES + 'header = "Client-Cert"\n', r"whoever asks could write Client-Cert herself; .* proxies = "),
    (CERTIFICATES + 'header = "a b"\n[http]\nproxies = ["10.0.0.7"]\n', r"'a b' is no name of a header"),
    (CERTIFICATES + 'holds = "name"\n', r'holds = "name" is of a header'),
    (CERTIFICATES + 'subject = "email"\n', r"subject must be one of uri, dns, cn, and not 'email'"),
    (
        '[http]\nclient_ca = "ca.pem"\n',
        r'clients show certificates where TLS is spoken; add certificate = "certificate.pem"',
    ),
    ("[http]\nclient_required = true\n", r'whose certificates is not said; add client_ca = "clients.pem"'),
]


@pytest.mark.parametrize(("text", "told"), MISTAKES, ids=[each[1][:50] for each in MISTAKES])
def test_a_mistake_is_one_line_that_says_what_to_type(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings_of(tmp_path, text)
    words = str(raised.value)
    assert re.search(told, words), words
    assert "\n" not in words
    assert words.startswith(str(tmp_path / "chimera.toml"))
