"""Logging in without a browser: the same flow, for tools on this machine."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs, urlsplit

import aiohttp

from chimera.errors import ChimeraError, Unavailable
from chimera.web.identity.people import CLIENT, PATH
from chimera.web.identity.ways import challenge_of

TIMEOUT = aiohttp.ClientTimeout(total=10)


async def token_of(base: str, subject: str) -> str:
    """An access token for somebody, of the issuer that is served at `base`. Raises ChimeraError."""
    issuer = base.rstrip("/") + PATH
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    back = f"{issuer}/shell"
    asked = {
        "client_id": CLIENT,
        "redirect_uri": back,
        "response_type": "code",
        "scope": "openid profile",
        "state": state,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
        "subject": subject,
    }
    try:
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            async with session.post(f"{issuer}/authorize", data=asked, allow_redirects=False) as answer:
                told = parse_qs(urlsplit(answer.headers.get("location", "")).query)
                if answer.status != 303 or told.get("state") != [state] or "code" not in told:
                    raise ChimeraError(f"{issuer} does not let {subject!r} in: {(await answer.text())[:300]}")
            proof = {"grant_type": "authorization_code", "client_id": CLIENT, "redirect_uri": back}
            proof |= {"code": told["code"][0], "code_verifier": verifier}
            async with session.post(f"{issuer}/token", data=proof) as answer:
                if answer.status != 200:
                    raise ChimeraError(f"{issuer} gives no token: {(await answer.text())[:300]}")
                return str((await answer.json())["access_token"])
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"no issuer answers at {issuer}: {error or type(error).__name__}") from error
