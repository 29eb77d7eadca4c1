"""No token, key or cookie is anywhere but where it was shown: not in logs, messages, stores, or what is parked."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from chimera.run.hosting import Hosting
from chimera.run.serving import answering, base_of, listen_as_set
from chimera.run.settings import read_settings
from tests.web.identity.issuer import CLIENT, SECRET, issuing

API_KEY = "chimera_" + "k" * 43


async def test_what_is_shown_is_kept_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    state = tmp_path / "state"
    async with issuing() as issuer:
        (tmp_path / "key").write_text(API_KEY)
        (tmp_path / "chimera.toml").write_text(
            f'[http]\naccess_log = "text"\n[[identity.issuers]]\nissuer = "{issuer.base}"\naudience = "desk"\n'
            f'client_id = "{CLIENT}"\nclient_secret = "{SECRET}"\n'
            '[[identity.api_keys]]\nname = "robot"\nkey = "file:key"\nroles = ["editor"]\n'
            '[services.desk]\napp = "tests.web.identity.hosted:desk"\nhandling = { tries = 1 }\n'
        )
        settings = read_settings(tmp_path / "chimera.toml", {"CHIMERA_STATE": str(state)}, {"port": 0})
        hosting = Hosting(lambda: settings, heads=("read", "write"), together=True)
        with closing(await listen_as_set(settings.http, "127.0.0.1", 0)) as listener:
            async with hosting.running(), answering(hosting, listener, http=settings.http):
                base = base_of("127.0.0.1", listener, settings.http)
                secrets = await show_everything(base, issuer.token(), issuer.token("bob", exp=1))
    own = [record for record in caplog.records if not record.name.startswith("http")]  # they are the client's
    found = "".join(f"{record.getMessage()} {record.exc_text}" for record in own).encode()
    files = [path for path in state.rglob("*") if path.is_file()]
    kept = b"".join(path.read_bytes() for path in files)
    assert b'"subject":"ann"' in kept, "who asked is kept"
    assert b"poison-of-a-page" in kept
    for secret in (*secrets, API_KEY, SECRET):
        parts = [secret, secret.rpartition(".")[2], secret[-40:]]
        for part in parts:
            assert part.encode() not in kept, secret
            assert part.encode() not in found, secret


async def ends(asking: httpx.AsyncClient, note_id: str, headers: dict[str, str]) -> str:
    """How a command ends that is sent so."""
    sent = await asking.post("/notes", json={"note_id": note_id}, headers=headers)
    assert sent.status_code == 201, sent.text
    state = await asking.get(f"/_chimera/desk/commands/{sent.json()['command_id']}?wait=10")
    return str(state.json()["state"])


async def show_everything(base: str, token: str, expired: str) -> list[str]:
    """Show each credential with queries, with commands that are done, refused and parked; gives the secrets."""
    async with httpx.AsyncClient(base_url=base, follow_redirects=True) as asking:
        ways = [{"authorization": f"Bearer {token}"}, {"x-api-key": API_KEY}]
        for number, headers in enumerate(ways):
            assert (await asking.put(f"/notes/{number}", json={}, headers=headers)).status_code == 200
            assert await ends(asking, f"note-{number}", headers) == "done"
            assert await ends(asking, f"poison-{number}", headers) == "parked"
        for shown in (expired, f"{token[:-9]}{'A' if token[-9] != 'A' else 'B'}{token[-8:]}", "x" * 60):
            assert (await asking.get("/me", headers={"authorization": f"Bearer {shown}"})).status_code == 401
        page = await asking.get("/me", headers={"accept": "text/html"})
        assert page.status_code == 200
        assert await ends(asking, "poison-of-a-page", {"sec-fetch-site": "same-origin"}) == "parked"
        cookies = [value.strip('"') for value in asking.cookies.values()]
        assert len(cookies) == 1
        return [token, expired, *cookies]
