"""Who did what is in every command and every event, whichever way they went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera import Caller, Command, DeclarationError, Entity, Event, Reads, Service, Transaction, Upload
from chimera.caller import (
    BAGGAGE_BYTES,
    BY_NOBODY,
    BY_SYSTEM,
    LONGEST_CALLER,
    LONGEST_METADATA,
    Origin,
    baggage_of,
    caller_of,
    caused_by,
    caused_together,
    metadata_of,
    origin_of,
)
from chimera.messages import MAX_KEY, Message
from chimera.testing import RunningServices, running
from chimera.upkeep.drift.share_audit import audit_share
from chimera.upkeep.recovery.trace import Trace, trace
from tests.support import journal_of

ANN = Caller("ann", frozenset({"seller"}), {"level": 3}, tenant="north", on_behalf_of="bob")


class Note(Entity, key="note_id"):
    note_id: str
    text: str = ""


class Write(Command, key="note_id"):
    note_id: str


class Change(Command, key="note_id"):
    note_id: str


class Attach(Command, key="note_id"):
    note_id: str
    size: int


class Shown(msgspec.Struct):
    note_id: str
    text: str


class Written(Event, source="notes", key="note_id"):
    note_id: str


class Mailed(Event, source="mail", key="note_id"):
    note_id: str
    by: str
    campaign: str


class Counted(Event, source="mail", key="name"):
    name: str


def services() -> tuple[Service, Service]:
    """Notes, written in each way that there is; mail, which reacts to them, one by one and in batches."""
    notes, mail = Service("notes", partitions=2), Service("mail", partitions=2)
    notes.entity(Note)
    notes.carries("campaign")

    async def written(note_id: str, tx: Transaction) -> None:
        tx.save(Note(note_id))
        await tx.reserve("title", note_id)
        tx.emit(Written(note_id))

    @notes.handle("POST /notes")
    async def write(command: Write, tx: Transaction) -> None:
        if failing.pop(command.note_id, None):
            raise ValueError("not yet")
        await written(command.note_id, tx)

    @notes.handle("POST /quietly")
    async def change(command: Change, tx: Transaction) -> None:
        tx.save(Note(command.note_id, "changed, and nobody is told"))

    @notes.handle("POST /notes/now", direct=True)
    async def attach(command: Attach, tx: Transaction) -> None:
        await written(command.note_id, tx)

    @notes.upload("PUT /notes/{note_id}/image")
    async def image(upload: Upload, note_id: str) -> Attach:
        return Attach(note_id, len(await upload.read()))

    @notes.share("note", key="note_id", changed_by=[Written])
    async def shared(note_ids: list[str], tx: Reads) -> dict[str, Shown]:
        return {each.note_id: Shown(each.note_id, each.text) for each in await tx.find(Note, note_id=note_ids)}

    @mail.on(Written)
    async def send(event: Written, tx: Transaction) -> None:
        tx.emit(Mailed(event.note_id, tx.origin.actor, tx.origin.baggage.get("campaign", "")))

    @mail.project(Written)
    async def count(events: list[Written], tx: Transaction) -> None:
        tx.emit(Counted("all"))

    return notes, mail


failing: dict[str, bool] = {}


async def events_of(s: RunningServices, name: str) -> list[tuple[Message, Origin]]:
    await s.settled()
    found = await journal_of(s.contexts[name].store, 2)
    return [(each, origin_of(each.id, each.metadata)) for each in found]


async def traced(s: RunningServices, what: str, last: int | None = None) -> Trace:
    await s.settled()
    return await trace([*s.contexts.values()], what, last)


@pytest.mark.parametrize("caller", [ANN, None], ids=["ann", "nobody"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/notes", {"note_id": "n"}),
        ("POST", "/notes/now", {"note_id": "n", "size": 1}),
        ("PUT", "/notes/n/image", {"anything": 1}),
    ],
    ids=["queued", "direct", "upload"],
)
async def test_who_did_it_is_in_all_that_comes_of_a_command(
    method: str, path: str, body: object, caller: Caller | None
) -> None:
    async with running(*services()) as s:
        headers = {"chimera-correlation": "chain-1", "baggage": "secret=x, campaign=spring%20sale;p=1"}
        answer = await s.ask(method, path, body, caller=caller, **headers)
        assert answer.status_code in (200, 201)
        command_id = answer.json()["command_id"]
        own = await events_of(s, "notes")
        assert {each.type for each, _ in own} == {"notes.Written", "notes.share.note", "notes.~reserved"}
        who = (caller, "" if caller else "nobody", "chain-1")
        for _, origin in own:
            assert origin == (*who, command_id, {"campaign": "spring sale"})
        event_id = next(each.id for each, _ in own if each.type == "notes.Written")
        [(mailed, origin)] = [each for each in await events_of(s, "mail") if each[0].type == "mail.Mailed"]
        assert origin == (*who, event_id, {"campaign": "spring sale"})
        assert json.loads(mailed.data) == {
            "note_id": "n",
            "by": "ann" if caller else "nobody",
            "campaign": "spring sale",
        }


async def test_a_command_that_says_no_chain_begins_one_by_its_id() -> None:
    async with running(*services()) as s:
        command_id = (await s.post("/notes", {"note_id": "n"}, caller=ANN)).json()["command_id"]
        assert {origin.correlation for _, origin in await events_of(s, "notes")} == {command_id}
        mailed = [origin for each, origin in await events_of(s, "mail") if each.type == "mail.Mailed"]
        assert [origin.correlation for origin in mailed] == [command_id]


async def test_what_failed_and_was_tried_again_is_still_its_senders() -> None:
    async with running(*services()) as s:
        failing["later"] = True
        command_id = (await s.post("/notes", {"note_id": "later"}, caller=ANN)).json()["command_id"]
        own = await events_of(s, "notes")
        assert [(o.caller, o.causation) for each, o in own if each.type == "notes.Written"] == [(ANN, command_id)]
        assert not failing


async def test_what_nobody_asked_for_is_the_systems() -> None:
    notes, mail = services()
    async with running(notes, mail) as s:
        await s.post("/notes", {"note_id": "n"}, caller=ANN)
        await s.settled()
        await s.post("/quietly", {"note_id": "n"}, caller=ANN)
        await s.settled()
        assert (await audit_share(s.contexts["notes"], notes.shares["note"])).repaired == 1
        shared = [origin for each, origin in await events_of(s, "notes") if each.type == "notes.share.note"]
        assert [origin.actor for origin in shared] == ["ann", "system"]


@pytest.mark.parametrize("given_", ["a b", "x" * 129, "é"])
async def test_a_correlation_that_is_none_is_refused(given_: str) -> None:
    async with running(*services()) as s:
        refused = await s.client.request(
            "POST", "/notes", json={"note_id": "n"}, headers=[(b"chimera-correlation", given_.encode("latin-1"))]
        )
        assert (refused.status_code, refused.json()["field"]) == (400, "header.Chimera-Correlation")
        assert not await events_of(s, "notes")


async def test_a_trace_finds_what_came_of_a_command_over_all_services() -> None:
    async with running(*services()) as s:
        command_id = (await s.post("/notes", {"note_id": "n"}, caller=ANN)).json()["command_id"]
        await s.post("/notes", {"note_id": "other"})
        found = await traced(s, command_id)
        assert found.is_whole
        kinds = sorted((step.kind, step.service, step.type) for step in found.steps)
        assert [each for each in kinds if each[2] != "mail.Counted"] == [
            ("command", "notes", ""),
            ("event", "mail", "mail.Mailed"),
            ("event", "notes", "notes.Written"),
            ("event", "notes", "notes.share.note"),
            ("event", "notes", "notes.~reserved"),
        ]
        assert found.steps[0].state == "done"
        assert {step.origin.actor for step in found.steps if step.type != "mail.Counted"} == {"ann"}
        mailed = next(step for step in found.steps if step.type == "mail.Mailed")
        again = await traced(s, mailed.id)
        assert {step.id for step in again.steps} == {step.id for step in found.steps}
        assert not (await traced(s, "no-such-thing")).steps
        assert not (await traced(s, "notes/0@999")).steps
        assert not (await traced(s, command_id, last=1)).is_whole


async def test_baggage_has_names_of_its_own() -> None:
    with pytest.raises(DeclarationError, match=r"test_caller.py:\d+: 'a b' is no name of baggage"):
        Service("wrong").carries("a b")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
callers = st.none() | st.builds(
    Caller,
    texts,
    st.frozensets(texts, max_size=3),
    st.dictionaries(texts, st.integers(-9, 9) | texts, max_size=2),
    texts,
    texts,
)


@given(callers, texts, texts, st.dictionaries(texts, texts, max_size=2), st.lists(texts, min_size=1, max_size=3))
def test_who_did_it_and_the_chain_are_the_same_however_long_the_chain_is(
    caller: Caller | None, command_id: str, correlation: str, baggage: dict[str, str], ids: Sequence[str]
) -> None:
    metadata, last = metadata_of(caller, correlation, baggage), command_id
    began = origin_of(command_id, metadata)
    assert (began.caller, began.correlation, began.causation) == (caller, correlation or command_id, "")
    for message_id in ids:
        metadata, cause = caused_by(last, metadata), last
        last = message_id
        found = origin_of(last, metadata)
        if command_id or correlation:
            assert found == began._replace(causation=cause)
        assert caller_of(metadata) == caller


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.text(max_size=9))
def test_whatever_a_stranger_writes_as_metadata_what_comes_of_it_says_its_cause(metadata: str, message_id: str) -> None:
    for text in (metadata, '{"caller":5}', '{"by":[]}', '{"}', "[1]", "nul", ""):
        found = origin_of("x", caused_by("cause", text))
        assert found.actor
        assert found.causation == "cause" or text == '{"caller":5}'
        assert origin_of(message_id, text).actor


def test_what_comes_of_a_batch_is_the_callers_only_where_she_caused_all_of_it() -> None:
    ann, bob = metadata_of(ANN), metadata_of(Caller("bob"))
    mine = [caused_by("c1", ann), caused_by("c2", ann)]
    assert origin_of("e", caused_together("notes/0@1", mine)) == (ANN, "", "notes/0@1", "notes/0@1", {})
    for others in ([*mine, caused_by("c3", bob)], [*mine, ""], [*mine, BY_SYSTEM]):
        assert origin_of("e", caused_together("notes/0@1", others)).actor == "system"
    for one, actor in ((BY_NOBODY, "nobody"), ("", "nobody"), (BY_SYSTEM, "system")):
        assert origin_of("e", caused_together("notes/0@1", [one, one]))[1:4] == (actor, "notes/0@1", "notes/0@1")


def test_metadata_of_older_builds_name_their_caller() -> None:
    assert origin_of("c", '{"caller":{"subject":"ann"}}') == (Caller("ann"), "", "c", "", {})
    assert origin_of("c", "").actor == "nobody"
    assert origin_of("e", caused_by("c", '{"caller":{"subject":"ann"}}')) == (Caller("ann"), "", "c", "c", {})


def test_all_that_travels_is_bounded() -> None:
    with pytest.raises(ValueError, match="at most 16,384 fit"):
        metadata_of(Caller("ann", claims={"text": "x" * LONGEST_CALLER}))
    largest = Caller("ann", claims={"text": "x" * (LONGEST_CALLER - 50)})
    header = ",".join(f"n{n}={'v' * 100}" for n in range(100))
    baggage = baggage_of(header, [f"n{n}" for n in range(100)])
    assert sum(len(name) + len(value) for name, value in baggage.items()) <= BAGGAGE_BYTES
    metadata = metadata_of(largest, "\\" * 128, baggage)
    assert len(caused_by("\\" * MAX_KEY, caused_by("\\" * MAX_KEY, metadata))) < LONGEST_METADATA


def test_baggage_that_is_none_is_left_behind() -> None:
    header = "a=1, a=2, b, c=%ff, d=%00, =5, e = ok ;ttl=1, f=%C3%A9, other=x"
    assert baggage_of(header, [*"abcdef"]) == {"a": "1", "e": "ok", "f": "é"}


def test_an_event_says_who_did_it_on_the_wire() -> None:
    from chimera.messages import CloudEvent, to_cloud_event

    metadata: Any = caused_by("c", metadata_of(ANN))
    message = Message(
        "notes/0@1", "notes", "notes.Written", "n", "2026-01-01T00:00:00Z", b"{}", 0, 1, metadata=metadata
    )
    written = msgspec.json.encode(to_cloud_event(message))
    assert json.loads(json.loads(written)["metadata"])["causation"] == "c"
    assert msgspec.json.decode(written, type=CloudEvent).to_message() == message
