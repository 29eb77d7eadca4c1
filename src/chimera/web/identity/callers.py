"""Who asks, by all the ways that the fleet has set: each credential that is shown must be good, and of one person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from chimera.caller import Caller, Request
from chimera.core.clock import Clock
from chimera.web.identity.api_keys import ApiKeys
from chimera.web.identity.bearers import Bearers, Believed
from chimera.web.identity.certificates import CertificateReader
from chimera.web.identity.keysets import KeySet
from chimera.web.identity.sessions import Sessions
from chimera.web.identity.settings import Identity, Issuer, KeyTimes
from chimera.web.identity.ways import Fetch, NotKnown

LOGIN = "/_chimera/login"
KEY_HEADER = "x-api-key"


class KnownCallers:
    """Finds out who asks by the settings. `secrets` seal sessions; `fetch` is the way to the issuers.

    `fleet`: keys by which a gateway's word of a certificate is known.
    `challenge` is for `WWW-Authenticate`. Close it at the end.
    """

    def __init__(
        self,
        identity: Identity,
        secrets: Sequence[str],
        fetch: Fetch,
        clock: Clock,
        times: KeyTimes = KeyTimes(),
        fleet: Sequence[str] = (),
    ) -> None:
        prefixes = [each.prefix for each in identity.issuers]
        believed = [Believed(each, KeySet(each, fetch, clock, times), prefixes) for each in identity.issuers]
        self.identity = identity
        self.clock = clock
        self.fetch = fetch
        self.secrets = secrets
        self.believed: Mapping[str, Believed] = {each.issuer.issuer: each for each in believed}
        self.bearers = Bearers(believed, clock, times)
        self.sessions = Sessions(identity, secrets, clock) if identity.logs_in else None
        self.challenge = ", ".join(_challenges(identity))
        self._keys = ApiKeys(identity.api_keys)
        found = identity.certificates
        self._certificates = CertificateReader(found, fleet, clock) if found else None

    @property
    def issuers(self) -> list[Issuer]:
        """Those by which pages log people in."""
        return [each for each in self.identity.issuers if each.client_id]

    async def __call__(self, request: Request) -> Caller | None:
        """Who asks; None where nothing is shown. Raises NotKnown, Rejected (403), and NotYet where nobody can tell."""
        found = await self._by_header(request)
        if self.sessions is not None and (cookie := self.sessions.shown(request)):
            found.append(self.sessions.read(request, cookie).caller)
        if self._certificates is not None and (certified := self._certificates.caller(request)) is not None:
            found.append(certified)
        if len({each.subject for each in found}) > 1:
            raise NotKnown("what is shown names different people; show one of it", "conflict")
        return found[0] if found else None

    def login(self, request: Request) -> str:
        """Where a browser that asks for a page is sent to log in; empty for all else."""
        is_page = request.method == "GET" and "authorization" not in request.headers
        if self.sessions is None or not is_page:
            return ""
        target = request.raw_path.decode("latin-1") + ("?" + request.query_string if request.query_string else "")
        return f"{LOGIN}?next={quote(target, safe='')}"

    def passing(self, request: Request) -> str:
        """What a gateway tells a service of the client's certificate; empty without any. Raises NotKnown."""
        return self._certificates.passing(request) if self._certificates is not None else ""

    async def close(self) -> None:
        """Ask issuers no longer."""
        for each in self.believed.values():
            await each.keys.close()

    async def _by_header(self, request: Request) -> list[Caller]:
        found: list[Caller] = []
        every = [value for name, value in request.scope["headers"] if name == b"authorization"]
        if len(every) > 1:
            raise NotKnown("Authorization is given more than once")
        if every:
            found.append(await self._authorized(every[0].decode("latin-1")))
        if self.identity.api_keys and (key := request.headers.get(KEY_HEADER)) is not None:
            found.append(self._keys.read(key))
        return found

    async def _authorized(self, shown: str) -> Caller:
        scheme, _, credential = shown.partition(" ")
        match scheme.lower():
            case "bearer" if self.believed:
                return await self.bearers.read(credential.strip())
            case "apikey" if self.identity.api_keys:
                return self._keys.read(credential.strip())
        raise NotKnown(f"Authorization begins with none of: {self.challenge}")


def _challenges(identity: Identity) -> list[str]:
    """How a program may show who asks."""
    ways = [*(["Bearer"] if identity.issuers else []), *(["ApiKey"] if identity.api_keys else [])]
    return ways or ["Bearer"]
