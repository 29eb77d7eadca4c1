"""What Chimera adds to each service, under `/_chimera/<service>/`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import msgspec

from chimera.body import Body
from chimera.borrowing import BorrowedReads
from chimera.commands import CommandStates
from chimera.digests import BUCKETS
from chimera.errors import Rejected, Trimmed
from chimera.messages import MAX_KEY, to_cloud_event
from chimera.modes import change_mode, read_mode
from chimera.ports import ConsumerAt
from chimera.service import Borrow, Mode, Share
from chimera.sharing import shared_documents
from chimera.transaction import Reads
from chimera.web import answers, openapi
from chimera.web.added import NoQuery, added_route, read_query
from chimera.web.http import NOT_JSON, Call, invalid
from chimera.web.objects import read_object, with_whole_numbers
from chimera.web.routing import Route

KEYS_LIMIT = 250
CONSUMERS_LIMIT = 1000
IDS_LIMIT = 500
LONGEST_WAIT_S = 30
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class WaitQuery(msgspec.Struct, forbid_unknown_fields=True):
    wait: Annotated[
        float, msgspec.Meta(ge=0, le=LONGEST_WAIT_S, description="seconds to hold the answer until it is settled")
    ] = 0.0


class KeysQuery(msgspec.Struct, forbid_unknown_fields=True):
    key: Annotated[list[str], msgspec.Meta(min_length=1, max_length=KEYS_LIMIT)]


class IdsQuery(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(min_length=1, max_length=IDS_LIMIT)]


Bucket = Annotated[int, msgspec.Meta(ge=0, le=BUCKETS - 1)]


class ModeBody(msgspec.Struct, forbid_unknown_fields=True):
    mode: Mode


class Admin:
    """The routes for operators, for borrowers, and for those who wait for their commands."""

    def __init__(self, body: Body, states: CommandStates, borrows: Mapping[str, BorrowedReads[Any]]) -> None:
        self._states = states
        self._borrows = borrows
        self._body = body
        partition = Annotated[int, msgspec.Meta(ge=0, le=self._body.service.partitions - 1)]
        self._digests_query = msgspec.defstruct("DigestsQuery", [("partition", partition)], forbid_unknown_fields=True)
        self._entries_query = msgspec.defstruct(
            "EntriesQuery",
            [
                ("partition", partition),
                ("bucket", Annotated[list[Bucket], msgspec.Meta(min_length=1, max_length=BUCKETS)]),
            ],
            forbid_unknown_fields=True,
        )
        self._consumers_body = _consumers_body(self._body.service.name, partition)
        self._journal_query = msgspec.defstruct(
            "JournalQuery",
            [
                ("partition", partition),
                ("after", Count, 0),
                ("limit", Annotated[int, msgspec.Meta(ge=1, le=1000)], 100),
            ],
            forbid_unknown_fields=True,
        )

    def routes(self) -> list[Route]:
        name = self._body.service.name
        get = partial(added_route, name)
        what = "Say how far consumers of the journal are"
        consumers = openapi.added(name, "/consumers", what, answers.ConsumersKept, NoQuery, body=self._consumers_body)
        return [
            get("/commands/{command_id}", self.command, "What became of a command", answers.OneCommand, WaitQuery),
            get("/commands", self.commands, "What became of many commands", answers.ManyCommands, IdsQuery),
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
            *self._share_routes(),
            Route("PUT", f"/_chimera/{name}/consumers", self.consumers, consumers),
            get("/borrows", self.borrows, "How this service borrows", answers.Borrows),
            *self._mode_routes(),
        ]

    def _share_routes(self) -> list[Route]:
        """Described routes for each share, and one that says which there are."""
        base = f"/_chimera/{self._body.service.name}/share"
        get = partial(added_route, self._body.service.name)
        described: list[Route] = []
        for share in self._body.service.shares.values():
            name, path = share.name, f"/share/{share.name}"
            documents, digests, entries = (partial(each, share) for each in (self.share, self.digests, self.entries))
            what = _shared(self._body.service.name, share)
            described += [
                get(path, documents, f"The current documents of {name}", what, KeysQuery),
                get(f"{path}/digests", digests, f"Digests of {name}", answers.SharedDigests, self._digests_query),
                get(f"{path}/entries", entries, f"The keys of {name}", answers.SharedEntries, self._entries_query),
            ]
        return [*described, Route("GET", f"{base}/{{name}}", self.no_share)]

    def _mode_routes(self) -> list[Route]:
        """A described route for each borrow, and one that says which there are."""
        name, borrows = self._body.service.name, self._body.service.borrows
        described = [
            Route(
                "PUT",
                f"/_chimera/{name}/borrows/{borrow.name}",
                partial(self.set_mode, borrow),
                openapi.added(
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
        query = read_query(call, WaitQuery)
        command_id = call.path["command_id"]
        state = await self._states.get(command_id, query.wait)
        if state.state == "unknown":
            raise Rejected(
                "command_unknown", f"{self._body.service.name} knows no command {command_id[:64]!r}", status=404
            )
        headers = [(b"chimera-position", state.positions.encode())] if state.positions else []
        shown = answers.OneCommand(command_id, *state)  # type: ignore[arg-type]
        await call.answer_json(shown, headers=headers)

    async def commands(self, call: Call) -> None:
        ids = read_query(call, IdsQuery, repeated=["id"]).id
        states = await self._states.get_many(ids)
        shown = {key: answers.CommandShown(*state) for key, state in zip(ids, states, strict=True)}  # type: ignore[arg-type]
        await call.answer_json(answers.ManyCommands(shown))

    async def journal(self, call: Call) -> None:
        query: Any = read_query(call, self._journal_query)
        try:
            events = await self._body.store.journal(query.partition, query.after, query.limit)
        except Trimmed as gone:
            raise Rejected("trimmed", str(gone), status=410) from gone
        await call.answer_json(
            {"partition": query.partition, "after": query.after, "events": [to_cloud_event(event) for event in events]}
        )

    async def heads(self, call: Call) -> None:
        read_query(call, NoQuery)
        heads = await self._body.store.heads()
        await call.answer_json(answers.Heads({str(partition): number for partition, number in sorted(heads.items())}))

    async def consumers(self, call: Call) -> None:
        read_query(call, NoQuery)
        body = await call.body()
        read_object(body)
        try:
            told: Any = msgspec.json.decode(with_whole_numbers(body), type=self._consumers_body)
        except NOT_JSON as error:
            raise invalid(error) from error
        at = [ConsumerAt(each.consumer, each.partition, each.number, each.offset) for each in told.consumers]
        await self._body.owner(self._body.service.name).report(at)
        await call.answer_json(answers.ConsumersKept(len(at)))

    async def no_share(self, call: Call) -> None:
        raise _unknown("share", call.path["name"], self._body.service.shares)

    async def share(self, share: Share, call: Call) -> None:
        keys = read_query(call, KeysQuery, repeated=["key"]).key
        async with self._body.store.snapshot() as session:
            reads = Reads(self._body.service, session)
            documents = await shared_documents(share, reads, list(dict.fromkeys(keys)))
        shown = {key: msgspec.Raw(document) for key, document in documents.items()}
        await call.answer_json(answers.SharedDocuments(share.name, shown))

    async def digests(self, share: Share, call: Call) -> None:
        query: Any = read_query(call, self._digests_query)
        digests = await self._body.owner(self._body.service.name).digests(share.name, query.partition)
        shown = {str(bucket): digest for bucket, digest in sorted(digests.items())}
        await call.answer_json(answers.SharedDigests(share.name, query.partition, shown))

    async def entries(self, share: Share, call: Call) -> None:
        query: Any = read_query(call, self._entries_query, repeated=["bucket"])
        owner = self._body.owner(self._body.service.name)
        entries = await owner.entries(share.name, query.partition, list(dict.fromkeys(query.bucket)))
        await call.answer_json(answers.SharedEntries(share.name, query.partition, dict(entries)))

    async def borrows(self, call: Call) -> None:
        read_query(call, NoQuery)
        shown = []
        for borrow in self._body.service.borrows.values():
            setting = await read_mode(self._body, borrow)
            shown.append(
                answers.BorrowShown(
                    borrow.name, borrow.owner, setting.mode, setting.wanted, borrow.budget, borrow.max_age
                )
            )
        await call.answer_json(answers.Borrows(shown))

    async def no_borrow(self, call: Call) -> None:
        raise _unknown("borrow", call.path["name"], self._body.service.borrows)

    async def set_mode(self, borrow: Borrow[Any], call: Call) -> None:
        read_query(call, NoQuery)
        body = await call.body()
        read_object(body)
        try:
            wanted = msgspec.json.decode(body, type=ModeBody).mode
        except NOT_JSON as error:
            raise invalid(error) from error
        setting = await change_mode(self._body, borrow, wanted)
        await self._borrows[borrow.name].look()
        await call.answer_json(answers.BorrowMode(borrow.name, borrow.owner, setting.mode, setting.wanted))


def _consumers_body(service: str, partition: Any) -> Any:
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


def _shared(service: str, share: Share) -> Any:
    """The answer of a share's route, with the document as it is declared."""
    name = _schema_name(f"{service}-{share.name}")
    return msgspec.defstruct(f"{name}Shared", [("share", str), ("documents", dict[str, share.document])])  # type: ignore[name-defined]


def _unknown(word: str, name: str, known: Mapping[str, object]) -> Rejected:
    return Rejected(
        f"{word}_unknown", f"there is no {word} {name[:64]!r}; there are: {', '.join(known) or 'none'}", status=404
    )
