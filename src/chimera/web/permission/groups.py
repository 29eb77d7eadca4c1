"""The groups of what Chimera adds to a service: public, for the fleet's services, for operators.

The last two are closed until a key, or a role, opens them; but for this machine, where `chimera up --dev` says so.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

from chimera.caller import NOBODY, AskedBy, Caller
from chimera.core.context import Context, Reach
from chimera.errors import MAKE_KEY, Rejected
from chimera.web.permission.asking import Asking
from chimera.web.permission.describing import describing
from chimera.web.permission.tokens import Peer, Peers
from chimera.web.replying import Unauthenticated
from chimera.web.wire.http import Call
from chimera.web.wire.routing import Endpoint, Route

SERVICE = "service"
"""The role of another service of the fleet."""
OPERATOR = "operator"
"""The role of whoever shows an operators' key."""
FLEET = frozenset({SERVICE, OPERATOR})
"""Who may read a journal: the fleet's services, and operators."""
SERVICES = frozenset({SERVICE})
OPERATORS = frozenset({OPERATOR})
Kinds = frozenset[str]
LONGEST_HOST = 64
"""Characters of an address; what is longer is no name of this machine."""


class Groups:
    """Closes routes to all but some kinds of callers. `asking`, where there is one, tells who else is an operator."""

    def __init__(self, context: Context, asking: Asking | None = None) -> None:
        self._reach = context.reach
        self._asking = asking
        self._peers = Peers(context.service.name, context.reach.fleet, context.clock)

    def close(self, routes: Iterable[Route], kinds: Kinds) -> list[Route]:
        """The routes, for these kinds of callers; as they are, where all is open."""
        return [self.closed(route, kinds) for route in routes]

    def closed(self, route: Route, kinds: Kinds, shares: Sequence[str] = ()) -> Route:
        """A route for these kinds of callers; of services for those only that have declared to borrow a share.

        `shares`: the names of that share.
        """
        if self._reach.is_open:
            return route
        endpoint = self._guarded(route.endpoint, kinds, frozenset(shares))
        return describing(route._replace(endpoint=endpoint), " | ".join(sorted(kinds)))

    def _guarded(self, endpoint: Endpoint, kinds: Kinds, shares: frozenset[str]) -> Endpoint:
        async def guarded(call: Call) -> None:
            call.asked = asked = await self._admitted(call, kinds)
            declared = asked.caller.claims.get("borrows", ()) if asked.caller else shares
            if shares and shares.isdisjoint(declared):
                raise _refused("it declares no borrow of this share")
            await endpoint(call)

        return guarded

    async def _admitted(self, call: Call, kinds: Kinds) -> AskedBy:
        """Who asks, when she may; nobody, on this machine. Raises Unauthenticated or Rejected (403)."""
        shown = call.header(b"authorization")
        if shown is None and self._reach.dev and is_local(call):
            return NOBODY
        scheme, _, token = (shown or "").partition(" ")
        caller = self._by_token(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None and self._asking is not None and self._asking.is_known:
            known = (await self._asking(call)).caller
            if known is not None and OPERATOR not in kinds:
                raise _refused("it is for services of the fleet")
            if known is not None and self._reach.role not in known.roles:
                raise _refused(f"it is for operators: whoever has the role {self._reach.role!r}, or their key")
            caller = known and Caller(known.subject, frozenset({OPERATOR}))
        if caller is None:
            raise Unauthenticated("unauthenticated", f"it is for {_named(kinds)}; show a token of theirs", "Bearer")
        if caller.roles.isdisjoint(kinds):
            raise _refused(f"it is for {_named(kinds)}")
        return AskedBy(caller)

    def _by_token(self, token: str) -> Caller | None:
        if any(hmac.compare_digest(token.encode(), key.encode()) for key in self._reach.operators):
            return Caller(OPERATOR, OPERATORS)
        peer = self._peers.read(token)
        return None if peer is None else _caller_of(peer)


def check_reported(asked: AskedBy | None, consumers: Iterable[str]) -> None:
    """Raises Rejected (403) where a service tells of consumers that are another's."""
    if asked is None or asked.caller is None:
        return
    for name in consumers:
        if not name.startswith(f"{asked.caller.subject} "):
            raise _refused(f"{asked.caller.subject} can't tell of {name[:64]!r}, a consumer of another service")


def is_local(call: Call) -> bool:
    """True for a request from this machine, through whatever stands in front, to a name of this machine."""
    client = call.scope.get("client")
    before = [each.strip() for each in ",".join(call.headers_of(b"x-forwarded-for")).split(",") if each.strip()]
    host = (call.header(b"host") or "").rpartition(":")
    named = host[0] if host[0] and host[2].isdigit() else host[0] + host[1] + host[2]
    return client is not None and all(is_loopback(each) for each in (client[0], *before, named))


def is_loopback(host: str) -> bool:
    """True for a host that only this machine reaches."""
    return len(host) <= LONGEST_HOST and _is_loopback(host)


@lru_cache(256)
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def standing(reach: Reach, *, is_alone: bool) -> str:
    """What is said at the start of who may reach `/_chimera/`. `is_alone`: others are in other processes."""
    if reach.is_open:
        return ""
    if reach.dev:
        return "whoever is on this machine, all of /_chimera/ (--dev)"
    operators = "by their keys" if reach.operators else f"by the role {reach.role!r}, or CHIMERA_OPERATORS__KEYS"
    if reach.fleet:
        services = "services of the fleet by its key"
    elif is_alone:
        services = f"no other service: set CHIMERA_FLEET__KEYS, the same for all, made by: {MAKE_KEY}"
    else:
        services = "no service outside of this process"
    return f"/_chimera/: {services}, operators {operators}"


def _caller_of(peer: Peer) -> Caller:
    return Caller(peer.name, SERVICES, {"borrows": sorted(peer.borrows)})


def _named(kinds: Kinds) -> str:
    words = {SERVICE: "services of the fleet", OPERATOR: "operators"}
    return " and ".join(words[kind] for kind in sorted(kinds, reverse=True))


def _refused(detail: str) -> Rejected:
    return Rejected("forbidden", detail, status=403)
