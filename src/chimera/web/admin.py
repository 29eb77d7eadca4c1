"""The routes that Chimera adds to each service, under `/_chimera/<service>/`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import msgspec

from chimera.borrow.modes import change_mode, read_mode
from chimera.borrow.reads import BorrowedReads
from chimera.commands.states import CommandStates
from chimera.core.context import Context
from chimera.core.json import NOT_JSON, invalid, read_object, with_whole_numbers
from chimera.core.keys.personal import is_personal_in
from chimera.errors import Rejected, Trimmed
from chimera.forms import AnyDocument
from chimera.messages import MAX_KEY, to_cloud_event
from chimera.parts import Borrow, Mode, Share
from chimera.ports import ConsumerAt
from chimera.share.digests import BUCKETS
from chimera.upkeep.standing import standing_works
from chimera.web.permission.groups import FLEET, OPERATORS, SERVICES, Groups, check_reported
from chimera.web.wire import answers, openapi
from chimera.web.wire.http import JSON, Call, NoQuery, read_query
from chimera.web.wire.openapi import added_route
from chimera.web.wire.routing import Route

KEYS_LIMIT = 250
CONSUMERS_LIMIT = 1000
IDS_LIMIT = 500
LONGEST_WAIT_S = 30
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class WaitQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query of a command's outcome."""

    wait: Annotated[
        float, msgspec.Meta(ge=0, le=LONGEST_WAIT_S, description="seconds to hold the answer until it is settled")
    ] = 0.0


class KeysQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query of a share's documents: `key` once for each."""

    key: Annotated[list[str], msgspec.Meta(min_length=1, max_length=KEYS_LIMIT)]


class IdsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query of many commands' outcomes: `id` once for each."""

    id: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(min_length=1, max_length=IDS_LIMIT)]


Bucket = Annotated[int, msgspec.Meta(ge=0, le=BUCKETS - 1)]


class ModeBody(msgspec.Struct, forbid_unknown_fields=True):
    """The mode that a borrow is to be switched to."""

    mode: Mode


class Admin:
    """The routes for operators, for borrowers, and for those who wait for their commands."""

    def __init__(
        self, context: Context, states: CommandStates, borrows: Mapping[str, BorrowedReads[Any]], groups: Groups
    ) -> None:
        self._states = states
        self._groups = groups
        self._borrows = borrows
        self._context = context
        partition = Annotated[int, msgspec.Meta(ge=0, le=self._context.service.partitions - 1)]
        self._digests_query = msgspec.defstruct("DigestsQuery", [("partition", partition)], forbid_unknown_fields=True)
        self._entries_query = msgspec.defstruct(
            "EntriesQuery",
            [
                ("partition", partition),
                ("bucket", Annotated[list[Bucket], msgspec.Meta(min_length=1, max_length=BUCKETS)]),
            ],
            forbid_unknown_fields=True,
        )
        self._consumers_body = _consumers_body(self._context.service.name, partition)
        self._journal_query = msgspec.defstruct(
            "JournalQuery",
            [
                ("partition", partition),
                ("after", Count, 0),
                ("limit", Annotated[int, msgspec.Meta(ge=1, le=1000)], 100),
            ],
            forbid_unknown_fields=True,
        )

        self._chain_query = msgspec.defstruct(
            "ChainQuery", [("partition", partition), ("number", Count, 0)], forbid_unknown_fields=True
        )

    def routes(self) -> list[Route]:
        """All of them, described but for those that say that there is no such share or borrow."""
        name = self._context.service.name
        get = partial(added_route, name)
        what = "Say how far consumers of the journal are"
        consumers = partial(
            openapi.added,
            name,
            "/consumers",
            what,
            answers.ConsumersKept,
            NoQuery,
            body=self._consumers_body,
            refusals={409: "The journal has no such event, or too many consumers are known."},
        )
        public = [
            get("/commands/{command_id}", self.command, "What became of a command", answers.OneCommand, WaitQuery),
            get("/commands", self.commands, "What became of many commands", answers.ManyCommands, IdsQuery),
        ]
        fleet = [
            get(
                "/journal",
                self.journal,
                "Events after a position",
                answers.JournalPage,
                self._journal_query,
                {410: "The first of these events is no longer kept."},
            ),
            get("/heads", self.heads, "The newest number of each partition", answers.Heads),
            get("/journal/heads", self.heads, "The newest number of each partition", answers.Heads),
            get("/journal/chain", self.chain, "The chain of a partition at a number", answers.Chain, self._chain_query),
            get("/journal/epochs", self.epochs, "Where the journal's history began anew", answers.JournalEpochs),
        ]
        report = Route("PUT", f"/_chimera/{name}/consumers", self.consumers, consumers)
        operators = [
            get("/borrows", self.borrows, "How this service borrows", answers.Borrows),
            *self._mode_routes(),
        ]
        return [
            *public,
            *self._groups.close(fleet, FLEET),
            *self._share_routes(),
            self._groups.closed(report, SERVICES),
            *self._groups.close(self._subject_routes(), SERVICES),
            *self._groups.close(operators, OPERATORS),
        ]

    def _subject_routes(self) -> list[Route]:
        """The keys of subjects, of a service that has personal values; they are for services of the fleet only."""
        if not is_personal_in(self._context.service):
            return []
        what = "The keys of personal values, by whom they are about"
        name, path = self._context.service.name, "/subjects"
        return [added_route(name, path, self.subjects, what, answers.SubjectsKeys, KeysQuery)]

    def _share_routes(self) -> list[Route]:
        """Described routes for each share, and one that says which there are."""
        base = f"/_chimera/{self._context.service.name}/share"
        get = partial(added_route, self._context.service.name)
        described: list[Route] = []
        for share in self._context.service.shares.values():
            name, path = share.name, f"/share/{share.name}"
            documents, digests, entries = (partial(each, share) for each in (self.share, self.digests, self.entries))
            what = _shared(self._context.service.name, share)
            own = [
                get(path, documents, f"The current documents of {name}", what, KeysQuery),
                get(f"{path}/digests", digests, f"Digests of {name}", answers.SharedDigests, self._digests_query),
                get(f"{path}/entries", entries, f"The keys of {name}", answers.SharedEntries, self._entries_query),
            ]
            described += [self._groups.closed(each, SERVICES, (name, *share.also)) for each in own]
        return [*described, self._groups.closed(Route("GET", f"{base}/{{name}}", self.no_share), SERVICES)]

    def _mode_routes(self) -> list[Route]:
        """A described route for each borrow, and one that says which there are."""
        name, borrows = self._context.service.name, self._context.service.borrows
        described = [
            Route(
                "PUT",
                f"/_chimera/{name}/borrows/{borrow.name}",
                partial(self.set_mode, borrow),
                partial(
                    openapi.added,
                    name,
                    f"/borrows/{borrow.name}",
                    f"Switch how {borrow.name} is borrowed",
                    answers.BorrowMode,
                    NoQuery,
                    body=ModeBody,
                ),
            )
            for borrow in borrows.values()
        ]
        return [*described, Route("PUT", f"/_chimera/{name}/borrows/{{name}}", self.no_borrow)]

    async def command(self, call: Call) -> None:
        """Answer with a command's outcome, after `wait` seconds at most. Raises Rejected (404) for an unknown one."""
        query = read_query(call, WaitQuery)
        command_id = call.path["command_id"]
        state = await self._states.get(command_id, query.wait)
        if state.state == "unknown":
            name = self._context.service.name
            told = [each for each in await standing_works(self._context) if each.work == f"{name} commands"]
            lost = [each for each in told if not each.tries]
            why = "".join(f"; if it was sent before {each.since:%Y-%m-%d %H:%M:%S}: {each.cause}" for each in lost)
            raise Rejected("command_unknown", f"{name} knows no command {command_id[:64]!r}{why}", status=404)
        headers = [(b"chimera-position", state.positions.encode())] if state.positions else []
        shown = answers.OneCommand(command_id, *state)  # type: ignore[arg-type]
        await call.answer_json(shown, headers=headers)

    async def commands(self, call: Call) -> None:
        """Answer with the outcomes of commands by id, as they are now; an unknown one is `unknown`."""
        ids = read_query(call, IdsQuery, repeated=["id"]).id
        states = await self._states.get_many(ids)
        shown = {key: answers.CommandShown(*state) for key, state in zip(ids, states, strict=True)}  # type: ignore[arg-type]
        await call.answer_json(answers.ManyCommands(shown))

    async def journal(self, call: Call) -> None:
        """Answer with a partition's events after a number, as CloudEvents. Raises Rejected (410) for trimmed ones."""
        query: Any = read_query(call, self._journal_query)
        try:
            events = await self._context.store.journal(query.partition, query.after, query.limit)
        except Trimmed as gone:
            raise Rejected("trimmed", str(gone), status=410) from gone
        await call.answer_json(
            {"partition": query.partition, "after": query.after, "events": [to_cloud_event(event) for event in events]}
        )

    async def heads(self, call: Call) -> None:
        """Answer with the newest number of each partition of the journal."""
        read_query(call, NoQuery)
        heads = await self._context.store.heads()
        await call.answer_json(answers.Heads({str(partition): number for partition, number in sorted(heads.items())}))

    async def chain(self, call: Call) -> None:
        """Answer with the chain of a partition of the journal at a number."""
        query: Any = read_query(call, self._chain_query)
        found = await self._context.store.chain({query.partition: query.number})
        await call.answer_json(answers.Chain(query.partition, query.number, found.get(query.partition, "")))

    async def epochs(self, call: Call) -> None:
        """Answer with where the journal's history began anew."""
        read_query(call, NoQuery)
        found = await self._context.owners[self._context.service.name].epochs()
        await call.answer_json(answers.JournalEpochs([answers.Began(*each) for each in found]))

    async def consumers(self, call: Call) -> None:
        """Store the checkpoints that another service's consumers report, and answer with their count."""
        read_query(call, NoQuery)
        body = await call.body()
        read_object(body)
        try:
            told: Any = msgspec.json.decode(with_whole_numbers(body), type=self._consumers_body)
        except NOT_JSON as error:
            raise invalid(error) from error
        check_reported(call.asked, (each.consumer for each in told.consumers))
        at = [ConsumerAt(each.consumer, each.partition, each.number, each.offset) for each in told.consumers]
        await self._context.owners[self._context.service.name].report(at)
        await call.answer_json(answers.ConsumersKept(len(at)))

    async def no_share(self, call: Call) -> None:
        """Raises Rejected (404), which names the shares that there are."""
        raise _unknown("share", call.path["name"], self._context.service.shares)

    async def share(self, share: Share, call: Call) -> None:
        """Answer with a share's documents by key, all of one snapshot; keys without one are left out."""
        keys = read_query(call, KeysQuery, repeated=["key"]).key
        found = await self._context.owners[self._context.service.name].fetch(share.name, list(dict.fromkeys(keys)))
        shown = {key: msgspec.Raw(document) for key, document in found.documents.items()}
        positions = {key: str(position) for key, position in found.positions.items()}
        await call.answer_json(answers.SharedDocuments(share.name, shown, positions))

    async def digests(self, share: Share, call: Call) -> None:
        """Answer with the digests of a partition of a share, by bucket."""
        query: Any = read_query(call, self._digests_query)
        digests = await self._context.owners[self._context.service.name].digests(share.name, query.partition)
        shown = {str(bucket): digest for bucket, digest in sorted(digests.items())}
        await call.answer_json(answers.SharedDigests(share.name, query.partition, shown))

    async def entries(self, share: Share, call: Call) -> None:
        """Answer with the entries of some buckets of a partition of a share, by key."""
        query: Any = read_query(call, self._entries_query, repeated=["bucket"])
        owner = self._context.owners[self._context.service.name]
        entries = await owner.entries(share.name, query.partition, list(dict.fromkeys(query.bucket)))
        await call.answer_json(answers.SharedEntries(share.name, query.partition, dict(entries)))

    async def subjects(self, call: Call) -> None:
        """Answer with the keys of subjects, for another service of the fleet."""
        wanted = read_query(call, KeysQuery, repeated=["key"]).key
        keys = await self._context.personal.of(dict.fromkeys(wanted))
        body = msgspec.json.encode(answers.SubjectsKeys({each: (known.id, known.key) for each, known in keys.items()}))
        await call.answer(body, 200, JSON, [(b"cache-control", b"no-store")])

    async def borrows(self, call: Call) -> None:
        """Answer with the service's borrows, and the modes that are in force and wanted."""
        read_query(call, NoQuery)
        shown = []
        for borrow in self._context.service.borrows.values():
            setting = await read_mode(self._context, borrow)
            shown.append(
                answers.BorrowShown(
                    borrow.name, borrow.owner, setting.mode, setting.wanted, borrow.budget, borrow.max_age
                )
            )
        await call.answer_json(answers.Borrows(shown))

    async def no_borrow(self, call: Call) -> None:
        """Raises Rejected (404), which names the borrows that there are."""
        raise _unknown("borrow", call.path["name"], self._context.service.borrows)

    async def set_mode(self, borrow: Borrow[AnyDocument], call: Call) -> None:
        """Ask for another mode of a borrow, and answer with the setting, which may still be to come in force."""
        read_query(call, NoQuery)
        body = await call.body()
        read_object(body)
        try:
            wanted = msgspec.json.decode(body, type=ModeBody).mode
        except NOT_JSON as error:
            raise invalid(error) from error
        setting = await change_mode(self._context, borrow, wanted)
        await self._borrows[borrow.name].look()
        await call.answer_json(answers.BorrowMode(borrow.name, borrow.owner, setting.mode, setting.wanted))


def _consumers_body(service: str, partition: object) -> type[msgspec.Struct]:
    """Consumers of the journal, each by a name that no other has, and how far it is in a partition and in its log."""
    name = _schema_name(service)
    fields = [
        ("consumer", Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY, pattern=r"^[^\x00-\x1f]+$")]),
        ("partition", partition),
        ("number", Count),
        ("offset", Count),
    ]
    told = msgspec.defstruct(f"{name}Consumer", fields, forbid_unknown_fields=True)
    consumers = Annotated[list[told], msgspec.Meta(max_length=CONSUMERS_LIMIT)]  # type: ignore[valid-type]
    return msgspec.defstruct(f"{name}Consumers", [("consumers", consumers)], forbid_unknown_fields=True)


def _schema_name(name: str) -> str:
    return "".join(word.title() for word in name.split("-"))


def _shared(service: str, share: Share) -> type[msgspec.Struct]:
    """The answer of a share's route, with the document as it is declared."""
    name = _schema_name(f"{service}-{share.name}")
    documents: Any = dict[str, share.document]  # type: ignore[name-defined]
    fields: list[tuple[str, Any]] = [("share", str), ("documents", documents), ("positions", dict[str, str])]
    return msgspec.defstruct(f"{name}Shared", fields)


def _unknown(word: str, name: str, known: Mapping[str, object]) -> Rejected:
    return Rejected(
        f"{word}_unknown", f"there is no {word} {name[:64]!r}; there are: {', '.join(known) or 'none'}", status=404
    )
