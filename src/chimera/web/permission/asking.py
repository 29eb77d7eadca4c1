"""Who asks: each request is shown, once, where that matters, to the service's authenticator, or to the fleet's ways."""

from __future__ import annotations

import re
from collections.abc import Callable

from chimera.caller import AskedBy, Caller, Request, baggage_of, metadata_of
from chimera.core.context import Context
from chimera.errors import ChimeraError, Invalid, Rejected
from chimera.ports import Session
from chimera.reader import Reader
from chimera.service import Service
from chimera.signature import Signature
from chimera.web.identity.ways import NotKnown
from chimera.web.replying import Unauthenticated
from chimera.web.snapshots import Snapshots
from chimera.web.wire.http import Call
from chimera.web.wire.turns import CallerTurns

CORRELATION = b"chimera-correlation"
"""The header that says in which chain of commands and events a command stands."""
_CORRELATION = re.compile(r"[\x21-\x7e]{1,128}")
CALLER = "chimera.caller"
"""The key of an ASGI scope under which whoever serves the application, such as a test, says who asks."""


class Asking:
    """Finds out who asks. `reader_of` makes a Reader of a session, for an authenticator that needs one."""

    def __init__(self, context: Context, snapshots: Snapshots, reader_of: Callable[[Session], Reader]) -> None:
        self._authenticator = authenticator = context.service.authenticator
        self._callers = context.callers if authenticator is None else None
        self._baggage = context.service.carried
        self._turns = CallerTurns(context.per_caller, context.clock) if context.per_caller.is_set else None
        self._snapshots = snapshots
        self._reader_of = reader_of
        if authenticator is not None:
            self._needs_reader = authenticator.signature.needs_any((Reader,))
            self._calling = context.resources.calling(authenticator.signature, Reader, Request)

    @property
    def is_known(self) -> bool:
        """True where the service has a way to tell who asks."""
        return self._authenticator is not None or self._callers is not None

    def unauthenticated(self, request: Request | None, refusal: NotKnown | None = None) -> Unauthenticated:
        """What is answered where nobody is known, or to what is refused; a browser may be sent to log in."""
        challenge, login = "Bearer", ""
        if self._authenticator is not None:
            challenge = self._authenticator.challenge
        elif self._callers is not None:
            challenge = self._callers.challenge
            if request is not None and (refusal is None or refusal.anew):
                login = self._callers.login(request)
        if refusal is None:
            return Unauthenticated("unauthenticated", "it is not known who asks; show who you are", challenge, login)
        return Unauthenticated(refusal.reason, refusal.detail, challenge, login)

    async def __call__(self, call: Call) -> AskedBy:
        """Who asks, and with which request. Raises Unauthenticated for what is shown and refused, or TooMany."""
        if call.asked is not None:
            return call.asked
        asked = await self._found(call)
        if self._turns is not None and asked.caller is not None:
            call.enter(self._turns, asked.caller.subject)
        return asked

    async def _found(self, call: Call) -> AskedBy:
        request = Request(call.scope)
        if isinstance(said := call.scope.get(CALLER), Caller):
            return AskedBy(said, request)
        if (authenticator := self._authenticator) is None:
            return AskedBy(await self._by_settings(request), request)

        async def look(session: Session) -> object:
            own = {Request: request, Reader: self._reader_of(session)}
            return await self._calling(own=own, asked=AskedBy(None, request))

        try:
            if self._needs_reader:
                caller = await self._snapshots.look(look)
            else:
                caller = await self._calling(own={Request: request}, asked=AskedBy(None, request))
        except Rejected as refusal:
            if refusal.status != 401:
                raise
            raise Unauthenticated(refusal.reason, refusal.detail, authenticator.challenge) from refusal
        if caller is not None and not isinstance(caller, Caller):
            raise ChimeraError(
                f"{authenticator.signature.at} returned a {type(caller).__name__}; return a Caller, or None for nobody"
            )
        return AskedBy(caller, request)

    async def _by_settings(self, request: Request) -> Caller | None:
        if self._callers is None:
            return None
        try:
            return await self._callers(request)
        except NotKnown as refusal:
            raise self.unauthenticated(request, refusal) from refusal

    def admit(self, asked: AskedBy, signature: Signature) -> None:
        """Raises Unauthenticated where a function takes the Caller, and nobody is known."""
        if asked.caller is None and any(need.type is Caller and not need.optional for need in signature.needs):
            raise self.unauthenticated(asked.request)

    def travels(self, call: Call, asked: AskedBy) -> str:
        """What travels with a command of hers. Raises Invalid, or ChimeraError for a caller that can't be written."""
        correlation = call.header(CORRELATION) or ""
        if correlation and not _CORRELATION.fullmatch(correlation):
            raise Invalid(
                "a Chimera-Correlation is 1 to 128 visible ASCII characters",
                field="header.Chimera-Correlation",
                status=400,
            )
        baggage = baggage_of(",".join(call.headers_of(b"baggage")), self._baggage) if self._baggage else {}
        try:
            return metadata_of(asked.caller, correlation, baggage)
        except ValueError as error:
            at = self._authenticator.signature.at if self._authenticator else ""
            raise ChimeraError(f"{at}: {error}") from error


def is_asked_for(service: Service, signature: Signature) -> bool:
    """True when it matters to a function who asks, or to what it needs."""
    if signature.needs_any((Caller, Request)):
        return True
    inner = (service.provided.get(need.type) for need in signature.needs)
    return any(is_asked_for(service, each.signature) for each in inner if each is not None)
