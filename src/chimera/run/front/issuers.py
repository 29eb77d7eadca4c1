"""The way to issuers over HTTP, and who asks by them: what `[identity]` sets, at work."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from chimera.core.clock import Clock
from chimera.core.context import Callers
from chimera.errors import SettingsError, Unavailable
from chimera.run.settings import Settings
from chimera.web.site import SitePart

if TYPE_CHECKING:
    import aiohttp

    from chimera.web.identity.callers import KnownCallers

TOTAL_S, CONNECT_S = 5.0, 2.0
ANSWER_LIMIT = 1 << 20


class IssuersOverHttp:
    """As `chimera.web.identity.ways.Fetch`: each call within 5 seconds, of a mebibyte, and redirected nowhere."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str) -> bytes:
        """The body of a 200. Raises Unavailable for all else."""
        status, body = await self._ask("GET", url)
        if status != 200:
            raise Unavailable(f"{url} answered {status}")
        return body

    async def post(self, url: str, form: Mapping[str, str], secret: tuple[str, str] | None) -> tuple[int, bytes]:
        """The status and body of the answer to a form. Raises Unavailable."""
        return await self._ask("POST", url, form, _basic(*secret) if secret else "")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None, authorization: str = ""
    ) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", **({"Authorization": authorization} if authorization else {})}
        import aiohttp  # a tenth of a second, for those who have issuers

        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TOTAL_S, connect=CONNECT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with self._session.request(
                method, url, data=form, headers=headers, allow_redirects=False
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > ANSWER_LIMIT:
                        raise Unavailable(f"{url} answered with more than {ANSWER_LIMIT} bytes")
                return response.status, bytes(body)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{url}: {type(error).__name__} {error}") from error


def _basic(client: str, secret: str) -> str:
    """As OAuth has it (RFC 6749): both encoded as in a form."""
    return "Basic " + b64encode(f"{quote_plus(client)}:{quote_plus(secret)}".encode()).decode()


class Identifying:
    """Who asks, by the settings, for all services of a process. `callers` is None where nothing is set."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._fetch = IssuersOverHttp()
        self.callers = _callers(settings, self._fetch, clock) if settings.identity.is_set else None

    async def close(self) -> None:
        """Ask issuers no longer."""
        if self.callers is not None:
            await self.callers.close()
        await self._fetch.close()


def login_of(callers: Callers | None) -> Sequence[SitePart]:
    """The routes by which people log in and out, where they can."""
    if callers is None:
        return []
    from chimera.web.identity.callers import KnownCallers
    from chimera.web.identity.login import Login

    if not isinstance(callers, KnownCallers) or callers.sessions is None:
        return []
    return [Login(callers, callers.sessions)]


def _callers(settings: Settings, fetch: IssuersOverHttp, clock: Clock) -> KnownCallers:
    """Raises SettingsError where what it takes is not installed."""
    try:
        from chimera.web.identity.callers import KnownCallers
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"[identity] needs {error.name}, which is not installed; type: pip install 'chimera-kit[identity]'"
        ) from error
    fleet = settings.fleet
    secrets = [*settings.identity.sessions] or [*fleet.keys] or [fleet.passing or clock.random_bytes(32).hex()]
    shared = [*fleet.keys] or [each for each in (fleet.passing,) if each]
    return KnownCallers(settings.identity, secrets, fetch, clock, fleet=shared)
