"""What Chimera adds to each service, under `/_chimera/<service>/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from chimera.commands import CommandState
from chimera.copies import read_mode, want_mode
from chimera.errors import ChimeraError, Invalid, Rejected
from chimera.messages import to_cloud_event
from chimera.service import Mode
from chimera.sharing import shared_documents
from chimera.status import service_status
from chimera.web import openapi
from chimera.web.http import Call, answer_problem, invalid
from chimera.web.routing import Endpoint, Route

if TYPE_CHECKING:
    from chimera.read_head import ReadHead

Query = TypeVar("Query", bound=msgspec.Struct)

KEYS_LIMIT = 1000
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class JournalQuery(msgspec.Struct, forbid_unknown_fields=True):
    partition: Annotated[int, msgspec.Meta(ge=0, le=255)]
    after: Count = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class WaitQuery(msgspec.Struct, forbid_unknown_fields=True):
    wait: Annotated[float, msgspec.Meta(ge=0, le=30)] = 0.0


class KeysQuery(msgspec.Struct, forbid_unknown_fields=True):
    key: Annotated[list[str], msgspec.Meta(min_length=1, max_length=KEYS_LIMIT)]


class IdsQuery(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(min_length=1, max_length=KEYS_LIMIT)]


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    pass


class ModeBody(msgspec.Struct, forbid_unknown_fields=True):
    mode: Mode


class Admin:
    """The routes for operators, for borrowers, and for those who wait for their commands."""

    def __init__(self, head: ReadHead) -> None:
        self._head = head
        self._body = head.body

    def routes(self) -> list[Route]:
        name = self._body.service.name
        handled: list[tuple[str, str, Endpoint, type[msgspec.Struct], str]] = [
            (
                "GET",
                "/commands/{command_id}",
                self.command,
                WaitQuery,
                "the state of a command; `wait` holds the answer",
            ),
            ("GET", "/commands", self.commands, IdsQuery, "the states of many commands"),
            ("GET", "/journal", self.journal, JournalQuery, "events after a position"),
            ("GET", "/heads", self.heads, NoQuery, "the newest number of each partition"),
            ("GET", "/journal/heads", self.heads, NoQuery, "the newest number of each partition"),
            ("GET", "/share/{name}", self.share, KeysQuery, "the owner's current documents"),
            ("GET", "/borrows", self.borrows, NoQuery, "how this service borrows"),
            ("GET", "/status", self.status, NoQuery, "checkpoints, heads, lag, parked counts, modes"),
            ("GET", "/health/live", self.live, NoQuery, "whether the process answers"),
            ("GET", "/health/ready", self.ready, NoQuery, "whether the engines answer"),
        ]
        routes = [
            Route(method, f"/_chimera/{name}{path}", endpoint, openapi.added(name, path, query, what))
            for method, path, endpoint, query, what in handled
        ]
        routes.append(
            Route(
                "PUT",
                f"/_chimera/{name}/borrows/{{name}}",
                self.set_mode,
                openapi.added(name, "/borrows/{name}", NoQuery, "switch a borrow's mode", body=ModeBody),
            )
        )
        metrics = openapi.added(name, "/metrics", NoQuery, "metrics for Prometheus", content_type="text/plain")
        routes.append(Route("GET", f"/_chimera/{name}/metrics", self.metrics, metrics))
        routes.append(Route("GET", "/metrics", self.metrics, metrics))
        return routes

    async def command(self, call: Call) -> None:
        query = _query(call, WaitQuery)
        command_id = call.path["command_id"]
        state = await self._head.states.get(command_id, query.wait)
        if state.state == "unknown":
            raise Rejected(
                "command_unknown", f"{self._body.service.name} knows no command {command_id[:64]!r}", status=404
            )
        headers = [(b"chimera-position", state.positions.encode())] if state.positions else []
        await call.answer_json({"command_id": command_id, **_shown(state)}, headers=headers)

    async def commands(self, call: Call) -> None:
        ids = _query(call, IdsQuery, repeated=["id"]).id
        states = await self._head.states.get_many(ids)
        await call.answer_json({"commands": {key: _shown(state) for key, state in zip(ids, states, strict=True)}})

    async def journal(self, call: Call) -> None:
        query = _query(call, JournalQuery)
        if query.partition >= self._body.service.partitions:
            raise Invalid(f"partitions are 0 to {self._body.service.partitions - 1}", field="query.partition")
        events = await self._body.store.journal(query.partition, query.after, query.limit)
        await call.answer_json(
            {"partition": query.partition, "after": query.after, "events": [to_cloud_event(event) for event in events]}
        )

    async def heads(self, call: Call) -> None:
        _query(call, NoQuery)
        heads = await self._body.store.heads()
        await call.answer_json({"heads": {str(partition): number for partition, number in sorted(heads.items())}})

    async def share(self, call: Call) -> None:
        share = self._body.service.shares.get(call.path["name"])
        if share is None:
            raise _unknown("share", call.path["name"], self._body.service.shares)
        keys = _query(call, KeysQuery, repeated=["key"]).key
        async with self._body.store.snapshot() as session:
            documents = await shared_documents(self._body.service, share, session, keys)
        shown = {key: msgspec.Raw(document) for key, document in documents.items()}
        await call.answer_json({"share": share.name, "documents": shown})

    async def borrows(self, call: Call) -> None:
        _query(call, NoQuery)
        shown = []
        for borrow in self._body.service.borrows.values():
            setting = await read_mode(self._body, borrow)
            shown.append(
                {
                    "name": borrow.name,
                    "owner": borrow.owner,
                    "mode": setting.mode,
                    "wanted": setting.wanted,
                    "budget_s": borrow.budget,
                    "max_age_s": borrow.max_age,
                }
            )
        await call.answer_json({"borrows": shown})

    async def set_mode(self, call: Call) -> None:
        borrow = self._body.service.borrows.get(call.path["name"])
        if borrow is None:
            raise _unknown("borrow", call.path["name"], self._body.service.borrows)
        _query(call, NoQuery)
        try:
            wanted = msgspec.json.decode(await call.body(), type=ModeBody).mode
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise invalid(error) from error
        setting = await want_mode(self._body, borrow, wanted)
        await self._head.borrows[borrow.name].look()
        await call.answer_json(
            {"name": borrow.name, "owner": borrow.owner, "mode": setting.mode, "wanted": setting.wanted}
        )

    async def status(self, call: Call) -> None:
        _query(call, NoQuery)
        await call.answer_json(await service_status(self._body))

    async def live(self, call: Call) -> None:
        _query(call, NoQuery)
        await call.answer_json({"status": "live"})

    async def ready(self, call: Call) -> None:
        _query(call, NoQuery)
        try:
            await self._body.store.heads()
            await self._body.log.ends(self._body.commands_topic)
        except ChimeraError as error:
            await answer_problem(call, 503, f"an engine does not answer: {error}", headers=[(b"retry-after", b"1")])
            return
        await call.answer_json({"status": "ready"})

    async def metrics(self, call: Call) -> None:
        _query(call, NoQuery)
        await call.answer(self._body.metrics.exposition(), 200, b"text/plain; version=0.0.4; charset=utf-8")


def _query(call: Call, type_: type[Query], *, repeated: Sequence[str] = ()) -> Query:
    try:
        return msgspec.convert(call.query(repeated=repeated), type_, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, "query") from error


def _shown(state: CommandState) -> dict[str, str]:
    shown = {"state": state.state, "reason": state.reason, "detail": state.detail, "position": state.positions}
    return {name: value for name, value in shown.items() if value}


def _unknown(word: str, name: str, known: Mapping[str, object]) -> Rejected:
    return Rejected(
        f"{word}_unknown", f"there is no {word} {name[:64]!r}; there are: {', '.join(known) or 'none'}", status=404
    )
