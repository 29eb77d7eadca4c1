"""What surrounds the functions of a service: who asks, and the resources that they need beside their arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar, overload

from chimera.caller import Caller, Request
from chimera.errors import DeclarationError, line_outside
from chimera.messages import Message
from chimera.replies import Problem, Reply
from chimera.signature import Needed, Signature, declared_at, located, name_of, read_parameters, signature_of, type_name

Resource = TypeVar("Resource")
AnyRender = TypeVar("AnyRender", bound=Callable[[Problem], Reply[Any]])
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Awaitable[Any]])

Per = Literal["process", "call"]
PERS: tuple[Per, ...] = ("process", "call")
Factory = Callable[
    ..., Resource | Awaitable[Resource] | AbstractAsyncContextManager[Resource] | AsyncIterator[Resource]
]
"""Makes a resource: a class, a function, an `async def`, or a function that yields it once and closes it after that."""
Asgi = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: `async def application(scope, receive, send) -> None`."""
Options = ParamSpec("Options")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")


class Provided(NamedTuple):
    """How a resource is made. `per`: once in each process, or for each call of a function that needs it."""

    type: type
    factory: Factory[Any]
    per: Per
    signature: Signature


class Authenticator(NamedTuple):
    """The function that tells who asks. `challenge`: what a 401 says in `WWW-Authenticate`."""

    function: Callable[..., Awaitable[Caller | None]]
    challenge: str
    signature: Signature


class Middleware(NamedTuple):
    """ASGI middleware as it was declared. `at`: its name, and the file and line where that was."""

    factory: Callable[..., Asgi]
    arguments: Sequence[Any]
    options: Mapping[str, Any]
    at: str

    def around(self, inner: Asgi) -> Asgi:
        """The application that it makes around another one. Raises DeclarationError where it makes none."""
        try:
            made = self.factory(inner, *self.arguments, **self.options)
        except Exception as error:
            raise DeclarationError(f"{self.at} can't be made: {type(error).__name__}: {error}") from error
        if not callable(made):
            raise DeclarationError(
                f"{self.at} makes a {type(made).__name__}; it makes an application: async def (scope, receive, send)"
            )
        return made


class Work(NamedTuple):
    """What a function is about to do: handle a command, react to events, or fold a batch of them into a view or copy.

    `name`: the command's, the reaction's or the view's. `messages` as they came.
    """

    kind: Literal["command", "reaction", "fold"]
    name: str
    messages: Sequence[Message]
    caller: Caller | None = None


class Supplies:
    """What the functions of a service are given by the types of their parameters; a part of Service."""

    def __init__(self) -> None:
        self.provided: dict[Any, Provided] = {}
        self.authenticator: Authenticator | None = None
        self.carried: tuple[str, ...] = ()
        self.renderer: Callable[[Problem], Reply[Any]] | None = None
        self.surrounding: list[Signature] = []
        self.middlewares: list[Middleware] = []
        self.starting: list[Signature] = []
        self.stopping: list[Signature] = []

    def provide(self, type_: type[Resource], factory: Factory[Resource] | None = None, *, per: Per = "process") -> None:
        """Give each function that has a parameter of this type a resource made by `factory`, or by the type itself.

        A factory is a class, a function, an `async def`, or one that yields: an `@asynccontextmanager`, which goes on
        to close the resource at the end. It is run on the loop of the heads, when they start (`per="process"`), or for
        each call of a function that needs one (`per="call"`). What it needs itself, it says by type too; one per call
        may take the Caller.
        """
        made = type_ if factory is None else factory
        if type_ in self.provided:
            raise DeclarationError(
                f"{located(made)}: {name_of(type_)} is provided already, at {located(self.provided[type_].factory)}; "
                "to have another one in a test, use: with service.replacing(…)"
            )
        self.provided[type_] = _provided(type_, made, per)

    @contextmanager
    def replacing(self, type_: type[Resource], factory: Factory[Resource], *, per: Per = "process") -> Iterator[None]:
        """Provide another resource for this type inside the block: for tests. Heads that start there use it."""
        before = self.provided.get(type_)
        self.provided[type_] = _provided(type_, factory, per)
        try:
            yield
        finally:
            if before is None:
                del self.provided[type_]
            else:
                self.provided[type_] = before

    @overload
    def authenticate(self, function: AnyFunction) -> AnyFunction: ...
    @overload
    def authenticate(self, *, challenge: str) -> Callable[[AnyFunction], AnyFunction]: ...
    def authenticate(self, function: AnyFunction | None = None, *, challenge: str = "Bearer") -> Any:
        """Tell by the decorated function who asks: `async def who(request: Request) -> Caller | None`.

        It may need resources and a Reader as well. It runs once for each request whose function needs the Caller, and
        for every command, whose caller travels with it. None is nobody: a function that takes `Caller` is then not
        called, and 401 answered with this `challenge`; one that takes `Caller | None` is. To refuse whoever shows
        something that is wrong, raise `Rejected("…", status=401)`.
        """

        def declare(function: AnyFunction) -> AnyFunction:
            if self.authenticator is not None:
                raise DeclarationError(
                    f"{located(function)}: {located(self.authenticator.function)} tells already who asks; keep one"
                )
            signature = signature_of(function)
            if signature.needs_any((Caller,)):
                raise DeclarationError(f"{signature.at}: it tells who the Caller is; it can't need one")
            self.authenticator = Authenticator(function, challenge, signature)
            return function

        return declare if function is None else declare(function)

    def carries(self, *names: str) -> None:
        """Let these entries of a request's `baggage` (W3C) travel with its commands, and with all that comes of them.

        Handlers and reactions find them in `tx.origin.baggage`, as text. All consumers may read them, and whoever asks
        may set them: they are for campaigns and experiments, not for who may do what. 1 KiB of names and values fits.
        """
        if wrong := [name for name in names if not _TOKEN.fullmatch(name)]:
            at = line_outside(("chimera",))
            raise DeclarationError(f"{at}: {wrong[0]!r} is no name of baggage; one looks like: campaign")
        self.carried = tuple(dict.fromkeys((*self.carried, *names)))

    def around(self, function: AnyFunction) -> AnyFunction:
        """Run the decorated function around each command, reaction and batch of events that is folded.

        `async def timed(work: Work, go_on: Callable[[], Awaitable[Any]]) -> Any`, with resources if need be. What it
        returns is the handler's answer: `return await go_on()`. The first one declared is the outermost. It is tried
        again with its handler, and counts towards the handler's time limit; of a batch it can't change the outcome.
        """
        self.surrounding.append(signature_of(function, 2))
        return function

    def middleware(
        self,
        factory: Callable[Concatenate[Any, Options], Asgi],
        *arguments: Options.args,
        **options: Options.kwargs,
    ) -> None:
        """Put ASGI middleware around the answers of the service's own routes: `shop.middleware(Tokens, secret="…")`.

        `factory(application, *arguments, **options)`, a class or a function, makes the application that is asked in
        place of the other. The first one declared is the outermost. It is asked for the routes' `OPTIONS` as well, and
        runs its lifespan before the read head starts and after it has stopped. What it raises is a 500.
        """
        at = f"{declared_at()}: the middleware {name_of(factory)}"
        if inspect.iscoroutinefunction(factory) or not callable(factory):
            kind = "is an async def" if callable(factory) else f"is a {type(factory).__name__}"
            raise DeclarationError(
                f"{at} {kind}; give a class or a function that takes the application and returns another one, or, to "
                f"run around each handler: @service.around"
            )
        try:
            inspect.signature(factory).bind(None, *arguments, **options)
        except TypeError as error:
            raise DeclarationError(f"{at} can't be made of what it is given: {error}") from error
        except ValueError:
            pass  # it has no signature to look at
        self.middlewares.append(Middleware(factory, arguments, options, at))

    def on_start(self, function: AnyFunction) -> AnyFunction:
        """Run the decorated `async def` in each process before its heads start; it may need resources."""
        self.starting.append(signature_of(function))
        return function

    def on_stop(self, function: AnyFunction) -> AnyFunction:
        """Run the decorated `async def` in each process once its heads have stopped, before resources are closed."""
        self.stopping.append(signature_of(function))
        return function

    def errors(self, render: AnyRender) -> AnyRender:
        """Give errors a shape of the service's own: `def render(problem: Problem) -> Reply`, of all its routes.

        Its answer is JSON; where it fails, the problem document is sent.
        """
        self.renderer = render
        return render

    def check_supplied(self, signature: Signature, own: tuple[Any, ...]) -> None:
        """Raises DeclarationError where nobody supplies what a function needs; `own` are types that its caller has."""
        for need in signature.needs:
            if need.type in own:
                continue
            if need.type is Caller and self.authenticator is None:
                if need.optional:
                    continue
                raise DeclarationError(
                    f"{signature.at} needs the Caller, and nobody tells who that is; add: @service.authenticate, or "
                    "[identity] to the settings"
                )
            if need.type not in self.provided and need.type is not Caller:
                raise DeclarationError(f"{signature.at}: {_unknown(need)}")

    def check_provided(self, own: tuple[Any, ...] = ()) -> None:
        """Raises DeclarationError where a resource, or what runs around others, needs what nobody provides.

        `own` are types that all of them have.
        """
        for signature in (*self.surrounding, *self.starting, *self.stopping):
            self.check_supplied(signature, own)
        for provided in self.provided.values():
            self.check_supplied(provided.signature, (Caller, Request) if provided.per == "call" else ())
            self._check_order(provided, ())

    def _check_order(self, provided: Provided, above: tuple[Any, ...]) -> None:
        if provided.type in above:
            way = " needs ".join(name_of(each) for each in (*above, provided.type))
            raise DeclarationError(f"{provided.signature.at}: {way}; one of them has to do without")
        for need in provided.signature.needs:
            if (inner := self.provided.get(need.type)) is None:
                continue
            if provided.per == "process" and inner.per == "call":
                raise DeclarationError(
                    f"{provided.signature.at}: it is made once in a process and needs {name_of(inner.type)}, which is "
                    'made for each call; make both per="call"'
                )
            self._check_order(inner, (*above, provided.type))


def _provided(type_: Any, factory: Factory[Any], per: Per) -> Provided:
    if per not in PERS:
        raise DeclarationError(f"{located(factory)}: per is one of {', '.join(PERS)}, not {per!r}")
    return Provided(type_, factory, per, read_parameters(factory, required_only=True))


def _unknown(need: Needed) -> str:
    return f"nobody provides its parameter {need.name!r}; add: service.provide({type_name(need.type)}, …)"
