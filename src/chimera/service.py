"""Declaring a service. A declaration is data: it opens nothing and runs nothing."""

from __future__ import annotations

import re
import typing
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from chimera.caller import Caller, Request
from chimera.entities import Entity, table_name, table_of
from chimera.errors import DeclarationError
from chimera.folds import Absent, Fold, View, check_not_unique, key_of_event
from chimera.forms import AnyDocument, names_of_fields
from chimera.messages import AnyCommand, AnyEvent, RenamedFrom, names_of, type_at, types_of
from chimera.parts import (
    AS_SET,
    MODES,
    STARTS,
    AllKeys,
    Borrow,
    Handler,
    Handling,
    Mode,
    Query,
    Reaction,
    Share,
    Start,
    Uploading,
    check_plain,
    check_route,
    path_parameters,
    reaction_signature,
)
from chimera.replies import ServerEvents, Stream
from chimera.rules import Rule
from chimera.signature import (
    Page,
    Signature,
    declared_at,
    located,
    name_of,
    signature_of,
    typed_key,
)
from chimera.supplies import Supplies
from chimera.versions import gave_up

Doc = TypeVar("Doc", bound=AnyDocument)
AnyEntity = TypeVar("AnyEntity", bound=Entity)
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Awaitable[Any]])
Happened = TypeVar("Happened", bound=AnyEvent)
More = ParamSpec("More")
On = Callable[Concatenate[Happened, More], Awaitable[None]]


_BARE_TABLES = frozenset({"heads", "journal", "documents", "checkpoints", "revisions"})
"""The tables of Chimera's own that a store of before has without a prefix."""
Tables = Sequence[str | type[Entity]]
"""Tables by name, or by the entities whose rows are in them."""
_TABLE = re.compile(r"[A-Za-z_]\w{0,47}")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


class Service(Supplies):
    """A bounded context: its commands, entities, events, views, what it shares and what it borrows.

    `name` is lower case letters, digits and dashes; it names the service on the wire and in addresses.
    `partitions` is the number of partitions of its journal and its command log; it can't change later. `forgot`: the
    names that were given up, by what they named (events, commands, views, reactions, tables, shares).
    """

    def __init__(self, name: str, *, partitions: int = 8) -> None:
        if not _NAME.fullmatch(name):
            raise DeclarationError(f"{name!r} can't name a service; use lower case letters, digits and dashes")
        if not 1 <= partitions <= 256:
            raise DeclarationError(f"service {name}: partitions is from 1 to 256, not {partitions}")
        super().__init__()
        self.name = name
        self.partitions = partitions
        self.declared_at = declared_at()
        self._read: frozenset[str] | set[str] = frozenset()
        self.forgot: dict[str, frozenset[str]] = {}
        self.entities: dict[type[Entity], None] = {}
        self.folds: dict[type, Fold[AnyDocument]] = {}
        self.handlers: dict[str, Handler] = {}
        self.uploads: dict[str, Uploading] = {}
        self.queries: dict[str, Query] = {}
        self.views: dict[str, View[AnyDocument]] = {}
        self.shares: dict[str, Share] = {}
        self.borrows: dict[str, Borrow[AnyDocument]] = {}
        self.reactions: dict[str, Reaction] = {}
        self.statements: dict[str, tuple[str, ...]] = {}

    def entity(self, entity: type[AnyEntity]) -> type[AnyEntity]:
        """Declare an entity stored as rows; usable as a decorator."""
        if entity.__unique__:
            try:
                table_of(entity)
            except DeclarationError as error:
                raise DeclarationError(f"{declared_at()}: {error}") from error
        self.entities[entity] = None
        return entity

    def event_sourced(self, document: type[Doc], *, key: str, snapshot: int = 0, version: str | int = "") -> Fold[Doc]:
        """Declare an entity whose state is folded from its own events in the journal: `tx.load(document, key)`.

        `snapshot=100`: after so many events more it is kept as it is, and what follows is folded onto that, as long as
        the code is the same; `version` tells what is not seen of it, as that of a view.
        """
        fold = Fold(document, key)
        if type(snapshot) is not int or snapshot < 0:
            raise DeclarationError(f"{declared_at()}: snapshot={snapshot!r} is no number of events, such as 100")
        fold.snapshot, fold.version = snapshot, version
        self.folds[document] = fold
        return fold

    def forgotten(
        self,
        *,
        events: Sequence[str] = (),
        commands: Sequence[str] = (),
        views: Sequence[str] = (),
        reactions: Sequence[str] = (),
        tables: Sequence[str] = (),
        shares: Sequence[str] = (),
    ) -> None:
        """Give up names under which something is stored, so that the start does not miss them; what is stored stays.

        Events of such a type are passed over by whoever reads the journal. Without this, the start refuses when an
        event in the journal has a type that no class is read from, or when something else has appeared beside what is
        gone, because that looks like a rename: `renamed_from=` says that it is one.
        """
        given = {
            "events": events,
            "commands": commands,
            "views": views,
            "reactions": reactions,
            "tables": tables,
            "shares": shares,
        }
        for what, gone in given.items():
            self.forgot[what] = self.forgot.get(what, frozenset()) | ({gone} if isinstance(gone, str) else {*gone})

    def reads(self, type_: str) -> bool:
        """True for a type in this service's journal that a class is read from, or that was given up, or of a share."""
        if type_ not in self._read and type_.startswith(f"{self.name}."):
            self._read = types_of(self.name)
        others = type_.startswith(f"{self.name}.share.") or not type_.startswith(f"{self.name}.")
        return others or type_ in self._read or gave_up(self.forgot, type_)

    def include_object(self, what: Any, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
        """For Alembic: `context.configure(…, include_object=shop.include_object)` keeps autogenerate to your tables.

        False for the tables of Chimera's own, and for those of entities that your metadata does not describe, with
        their indexes and constraints: Chimera makes and changes these itself.
        """
        table = str(getattr(getattr(what, "table", what), "name", name))
        if table.startswith("chimera_"):
            return False
        is_made_here = table in _BARE_TABLES or table in {table_of(entity).name for entity in self.entities}
        return not (is_made_here and reflected and compare_to is None)

    def schema(self, statements: Mapping[str, Sequence[str]]) -> None:
        """SQL of the service's own, by dialect, run when the store is opened; it must be idempotent."""
        for dialect, lines in statements.items():
            self.statements[dialect] = (*self.statements.get(dialect, ()), *lines)

    def handle(
        self,
        route: str | None = None,
        *,
        direct: bool = False,
        location: str | None = None,
        body: str = "",
        allow: Rule | None = None,
        handling: Handling = AS_SET,
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Handle the command that the decorated function's first parameter names; its second is the Transaction.

        `route`, such as `POST /orders/{order_id}/stage`, is where the read head accepts it; parameters of
        the path are fields of the command. `direct` runs the handler inside the request, in a transaction
        on the source of truth, and answers with what the handler returns. `location`, such as
        `/orders/{order_id}`, is the Location header of a 201. `body="order"`: the fields come in an object of that
        name, as in `{"order": {…}}`. `allow` says who may send it, as in `owner_of("seller_id") | role("admin")`.
        `handling` says how long it may take and how often it is tried; settings have the last word.
        """

        def declare(function: AnyFunction) -> AnyFunction:
            signature = signature_of(function, 1)
            command = signature.hints.get(signature.first[0])
            if not (isinstance(command, type) and issubclass(command, AnyCommand)):
                raise DeclarationError(
                    f"{signature.at}: its first parameter {signature.first[0]!r} must be annotated with a Command"
                )
            if not command.__key_fields__:
                raise DeclarationError(f'{command.__name__} needs a key: class {command.__name__}(Command, key="…")')
            for field in command.__key_fields__:
                if "." in field:
                    type_at(command, field)
            if not direct and signature.needs_any((Request,)):
                raise DeclarationError(
                    f"{signature.at}: it needs the Request, and runs later, in a write head: make it direct=True, "
                    "put what it needs into the command, or take the Caller"
                )
            check_route(route, names_of_fields(command))
            for other in self.handlers.values():
                if other.command is not command and not set(command.__names__).isdisjoint(other.command.__names__):
                    raise DeclarationError(
                        f"{located(function)}: service {self.name} handles a command of the same name at "
                        f"{located(other.function)}: give {command.__name__} another, as in: class "
                        f'{command.__name__}(Command, key="…", name="{command.__name__}2")'
                    )
            result = signature.hints.get("return")
            if result in (Stream, ServerEvents):
                raise DeclarationError(
                    f"{signature.at}: its answer is kept for whoever sends the command again, and a Stream can't be; "
                    "answer with where it is, and stream it from a query"
                )
            handler = Handler(command, route, direct, location, result, handling, signature, body, allow)
            self._add(self.handlers, command.__names__[0], handler, "command")
            return function

        return declare

    def get(
        self, path: str, *, page: Page | None = None, allow: Rule | None = None
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Answer GET by the decorated function: parameters named in the path, others from the query, and a Reader.

        None becomes a 404. `page` renders the answer as HTML for those who accept it. The function only reads: where
        rows change while it does, it is called once more. `allow` says who may ask.
        """

        def declare(function: AnyFunction) -> AnyFunction:
            signature = signature_of(function, may_be_plain=True)
            check_plain(f"GET {path}", signature)
            self._add(self.queries, path, Query(f"GET {path}", page, signature, allow), "path")
            return function

        return declare

    def upload(
        self, route: str, *, limit: int = 100 << 20, allow: Rule | None = None
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Take bodies of any kind at `route`, at most `limit` bytes, by the decorated function.

        It takes an Upload, parameters of the path and the query, resources and the Caller. It puts the body where it
        belongs, and returns the command that tells of it: that is then accepted, and answered, as if it had come by
        itself. No transaction is open meanwhile. A body that comes again is put again. `allow` says who may send it,
        and is asked before any of it is read; so is that of the command, once it is known.
        """

        def declare(function: AnyFunction) -> AnyFunction:
            signature = signature_of(function, may_be_plain=True)
            check_plain(route, signature)
            command = signature.hints.get("return")
            if not (isinstance(command, type) and issubclass(command, AnyCommand)):
                raise DeclarationError(f"{signature.at}: say which command it returns, as in: -> SetImage")
            self._add(self.uploads, route, Uploading(route, command, limit, signature, allow), "upload")
            return function

        return declare

    def view(
        self,
        document: type[Doc],
        *,
        key: str,
        path: str | None = None,
        name: str | None = None,
        renamed_from: RenamedFrom = (),
        absent: Absent = "404",
        page: Page | None = None,
        version: str | int = "",
        unique: None = None,
        allow: Rule | None = None,
    ) -> View[Doc]:
        """Declare a view; `path` serves its documents by key, such as `/sellers/{seller_id}/sales?by=day`.

        `absent` says what is served for a key without a document: a 404, or the document as it is
        before its first event.

        `name` (that of the document unless given) is the one under which its documents are stored. Once it is, the same
        view of another name is declared with `renamed_from="sales"`, and stays stored as it is. A view begins at the
        beginning of its events.

        When the document or one of its functions changes, the view is built anew beside the old one. `version` is for
        what can't be seen of a change, such as one in a helper: another version is another view to build.

        No view is `unique`: it is behind its events, so that it could only refuse what has happened. `allow` says who
        may read it at its path; lists have their own.
        """
        check_not_unique(unique, getattr(document, "__unique__", ()))
        stored, *also = names_of(name or _snake(document.__name__), None, renamed_from)
        if "~" in stored:
            raise DeclarationError(f"view {stored}: its name must not hold ~, which numbers its generations")
        view = View(stored, document, key, path, absent, page, version, tuple(also), declared_at(), allow)
        if path and path_parameters(path) != [key]:
            raise DeclarationError(f"view {view.name}: its path must hold {{{key}}} and no other parameter")
        self._add(self.views, view.name, view, "view")
        return view

    def share(
        self,
        name: str,
        *,
        key: str,
        changed_by: Sequence[type[AnyEvent]],
        keys: AllKeys | None = None,
        renamed_from: RenamedFrom = (),
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Export what the decorated function returns: a document for each key asked for that has one.

        The function takes the keys and Reads; it is annotated with the dict it returns. The same rows must give
        the same document, whenever it is asked. Whenever an event of `changed_by` is emitted, the new document of
        the event's `key` goes into the journal in the same transaction, for those who keep copies.

        A share that is added to a service with data says with `keys` which keys there are:
        `async def every_key(read: Reads) -> list[str]`. Their documents are then put into the journal once.

        A share that is called otherwise now is declared with `renamed_from=`; who borrows it goes on by the old name.
        """
        stored, *also = names_of(name, None, renamed_from)

        def declare(function: AnyFunction) -> AnyFunction:
            signature = signature_of(function, 2)
            arguments = typing.get_args(signature.hints.get("return"))
            if len(arguments) != 2:
                raise DeclarationError(f"{signature.at}: say what it returns, as in: -> dict[str, YourDocument]")
            if signature.needs_any((Caller, Request)):
                raise DeclarationError(f"{signature.at}: a share is the same whoever asks; it can't need the caller")
            events = {event: key_of_event(event, key) for event in changed_by}
            for event in events:
                if event.__source__ != self.name:
                    raise DeclarationError(
                        f"share {name}: {event.__name__} is owned by {event.__source__!r}, not {self.name!r}"
                    )
            self._add(
                self.shares,
                stored,
                Share(stored, arguments[1], events, keys, tuple(also), signature, _typed_keys(signature)),
                "share",
            )
            return function

        return declare

    def borrow(
        self,
        share: str,
        document: type[Doc],
        *,
        mode: Mode = "sync",
        budget: float = 0.05,
        max_age: float = 5.0,
        owner: str | None = None,
        renamed_from: str | None = None,
    ) -> Borrow[Doc]:
        """Use what `owner` (the service of the share's name unless given) shares, as `document`.

        `budget` is the seconds that a read may wait for the owner. A copy whose owner has not been
        heard of for `max_age` seconds is marked stale. `renamed_from`: the name by which the owner still knows the
        share.
        """
        if mode not in MODES:
            raise DeclarationError(f"borrow {share}: mode is one of {', '.join(MODES)}, not {mode!r}")
        known = renamed_from or share
        borrow = Borrow(owner or share, known, document, mode, budget, max_age)
        self._add(self.borrows, known, borrow, "borrow")
        return borrow

    def on(
        self,
        event: type[Happened],
        *,
        name: str | None = None,
        renamed_from: RenamedFrom = (),
        start: Start | None = None,
        handling: Handling = AS_SET,
    ) -> Callable[[On[Happened, More]], On[Happened, More]]:
        """Do work for each such event: `async def function(event, tx)`, once, in order by key, parked if it fails.

        `name` (that of the function unless given) is the one of its checkpoints. Once there are some, the same work in
        a function of another name is declared with `renamed_from="send_mail"`, and goes on where it is. `start` says
        where new work begins when there are events already: with those from `"now"` on, or at the `"beginning"`; it
        means nothing later. `handling` as for `handle`.
        """
        return self._react((event,), name, renamed_from, start, handling, batch=False)

    def project(
        self,
        *events: type[AnyEvent],
        name: str | None = None,
        renamed_from: RenamedFrom = (),
        start: Start | None = None,
        handling: Handling = AS_SET,
        tables: Tables = (),
        compared: Tables = (),
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Do work for batches of such events: `async def function(events, tx)`, in the checkpoint's transaction.

        `name`, `renamed_from` and `start` as in `on`; `handling` as for `handle`, its limit is that of a batch.
        `tables`: entities, or names of tables of `schema`, that this function makes of the events and nobody else
        writes: `chimera rebuild` builds them anew beside those that serve. `compared`: those of them whose rows are
        compared then; all unless given.
        """
        return self._react(events, name, renamed_from, start, handling, batch=True, tables=(tables, compared))

    def _react(
        self,
        events: tuple[type[AnyEvent], ...],
        name: str | None,
        renamed_from: RenamedFrom,
        start: Start | None,
        handling: Handling,
        *,
        batch: bool,
        tables: tuple[Tables, Tables] = ((), ()),
    ) -> Callable[[AnyFunction], AnyFunction]:
        def declare(function: AnyFunction) -> AnyFunction:
            if start is not None and start not in STARTS:
                raise DeclarationError(f"{located(function)}: start is one of {', '.join(STARTS)}, not {start!r}")
            signature = reaction_signature(function, events, batch=batch)
            stored, *also = names_of(name_of(function), name, renamed_from)
            taken = {name for each in self.reactions.values() for name in each.tables}
            built = _rebuildable(signature.at, start, *tables, taken)
            reaction = Reaction(stored, events, batch, start, tuple(also), handling, signature, *built)
            self._add(self.reactions, stored, reaction, "reaction")
            return function

        return declare

    def _add(self, declared: dict[str, Any], name: str, what: object, word: str) -> None:
        if name in declared:
            raise DeclarationError(f"service {self.name} already has a {word} {name!r}")
        declared[name] = what


def _typed_keys(signature: Signature) -> Callable[[str], Any] | None:
    """What makes the keys that a share's function takes of their texts; None where it takes texts."""
    arguments = typing.get_args(signature.hints.get(signature.first[0]))
    return typed_key(arguments[0], f"{signature.at}: its key") if arguments else None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _rebuildable(
    at: str, start: Start | None, tables: Tables, compared: Tables, taken: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a reaction's tables that can be built anew, and of those that are compared then.

    `at`: where it is declared; `taken`: the tables of others. Raises DeclarationError.
    """
    wanted, shown = (
        tuple(each if isinstance(each, str) else table_name(each) for each in many) for many in (tables, compared)
    )
    if isinstance(tables, str) or isinstance(compared, str):
        raise DeclarationError(f'{at}: tables= and compared= take several, as in tables=["{tables or compared}"]')
    if wanted and start == "now":
        raise DeclarationError(f'{at}: tables that are built anew have all events: start="now" can\'t be')
    for name in wanted:
        if not _TABLE.fullmatch(name) or name.startswith("chimera_"):
            raise DeclarationError(
                f"{at}: {name!r} can't name a table that is built anew; use up to 48 letters, digits and _"
            )
        if name in taken:
            raise DeclarationError(f"{at}: the table {name} is in tables= of another project already")
    for each in tables:
        if not isinstance(each, str) and each.__unique__:
            raise DeclarationError(f"{at}: {each.__name__} has unique= and can't be built anew: what it reserves stays")
    if unknown := [name for name in shown if name not in wanted]:
        raise DeclarationError(f"{at}: compared= names {', '.join(unknown)}, which is not in tables=")
    return wanted, shown
