"""Personal values and the keys of subjects, on the store's engines in memory."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from msgspec import Struct

from chimera import (
    Command,
    DeclarationError,
    Entity,
    Event,
    Forgotten,
    Personal,
    Range,
    Secret,
    Service,
    SettingsError,
    Subject,
    Transaction,
)
from chimera.core.clock import Clock
from chimera.core.json import tell
from chimera.core.keys.ciphers import Masters, conceal, reveal
from chimera.core.keys.concealing import conceal_all
from chimera.core.keys.personal import check_personal
from chimera.core.keys.subjects import SubjectKeys
from chimera.core.tables import framework_tables
from chimera.entities import SUBJECT_KEYS as SUBJECTS
from chimera.entities import table_of
from chimera.errors import ChimeraError, Invalid, Unavailable, Unfit
from chimera.finding import sought
from chimera.forms import decoder_of, encode, form_of, taker_of
from chimera.personal import MARK
from chimera.ports import KnownKey
from chimera.testing import personal
from chimera.testing.memory import MemoryStore

MASTER = "a master key of thirty-two characters"
OTHER = "another master key of enough characters"


class Write(Command, key="author_id"):
    author_id: str
    text: Personal[str]
    to: tuple[Recipient, ...] = ()
    note: Personal[int] | None = None


class Recipient(Struct):
    person: str
    mail: Annotated[Personal[str], Subject("person")]


class Written(Event, source="letters", key="author_id"):
    author_id: str
    text: Personal[str]


async def keys_of(store: MemoryStore | None = None, *masters: str, ask: Any = None) -> SubjectKeys:
    store = store or MemoryStore()
    await store.create(framework_tables(), 4)
    masters = masters or (MASTER,)
    return SubjectKeys("letters", store, Clock(), Masters(masters), ask or (lambda name: None), 60.0, 100)


def taken(**fields: Any) -> Write:
    return taker_of(Write).decode(msgspec.json.encode(fields))


@drawn(st.text(), st.text(min_size=1), st.text())
def test_what_is_concealed_is_what_is_revealed_and_nothing_of_it_is_seen(text: str, subject: str, salt: str) -> None:
    written = conceal(bytes(32), "letters", "0a0b0c0d", subject, encode(text), salt)
    value = decoder_of(Written).decode(encode({"author_id": "a", "text": written})).text
    assert value.parts is not None
    assert value.parts.subject == subject
    assert value.read(reveal(bytes(32), value.parts)) == text
    assert conceal(bytes(32), "letters", "0a0b0c0d", subject, encode(text), salt) == written


@pytest.mark.parametrize("at", ["service", "key", "subject", "sealed"])
def test_a_value_in_anothers_place_is_not_opened(at: str) -> None:
    value = Personal[str](conceal(bytes(32), "letters", "0a0b0c0d", "ann", b'"x"', "")).parts
    assert value is not None
    other = {"service": "others", "key": "00000000", "subject": "bob", "sealed": "A" + value.sealed[1:]}
    changed = value._replace(**{at: other[at] if value.sealed[0] != "A" or at != "sealed" else "B" + value.sealed[1:]})
    with pytest.raises(ChimeraError, match="was changed since it was concealed"):
        reveal(bytes(32), changed)


async def test_each_value_is_about_whom_it_says_and_the_same_command_is_the_same_bytes() -> None:
    keys = await keys_of()
    to = [{"person": "bob", "mail": "b@x"}, {"person": "cy", "mail": "c@x"}]
    given = {"author_id": "ann", "text": "dear", "to": to}
    command = taken(**given)
    data = await conceal_all(keys, command, "id-1")
    values = [command.text, *(each.mail for each in command.to)]
    assert [parts.subject for each in values if (parts := each.parts)] == ["ann", "bob", "cy"]
    assert await keys.reveal([command.text, command.to[1].mail]) == ["dear", "c@x"]
    assert await conceal_all(keys, taken(**given), "id-1") == data
    assert await conceal_all(keys, taken(**given), "id-2") != data
    assert decoder_of(Write).decode(data) == command


async def test_who_was_forgotten_is_gone_for_good_and_nothing_more_is_taken_of_her() -> None:
    store = MemoryStore()
    keys = await keys_of(store)
    command = taken(author_id="ann", text="dear", note=7)
    await conceal_all(keys, command, "id")
    assert command.note is not None
    assert await keys.reveal([command.text, command.note]) == ["dear", 7]
    row = (await keys_rows(store))["ann"]
    async with store.transaction() as session:
        await session.save(SUBJECTS, [(row[0], row[1], b"", "", row[4], row[4])])
    later = await keys_of(store)
    assert await later.reveal([command.text, command.note]) == [Forgotten(), Forgotten()]
    with pytest.raises(Invalid) as refused:
        await conceal_all(later, taken(author_id="ann", text="again"), "id-2")
    assert refused.value.status == 410


async def test_keys_are_wrapped_by_the_master_key_and_nobody_opens_them_without_it() -> None:
    store = MemoryStore()
    keys = await keys_of(store)
    made = await keys.made("ann")
    assert made.key not in repr(await keys_rows(store)).encode()
    assert made.key.hex() not in repr(await keys_rows(store))
    assert (await (await keys_of(store, OTHER, MASTER)).of(["ann"]))["ann"] == made
    with pytest.raises(Unavailable, match=r"which is not among \[personal\] keys"):
        await (await keys_of(store, OTHER)).of(["ann"])


async def test_another_services_keys_are_asked_for_once_and_known_for_a_while() -> None:
    class Owner:
        def __init__(self) -> None:
            self.asked: list[Sequence[str]] = []

        async def subject_keys(self, subjects: Sequence[str]) -> Mapping[str, KnownKey]:
            self.asked.append(subjects)
            return dict.fromkeys(subjects, KnownKey("00000000", bytes(32)))

    owner = Owner()
    keys = await keys_of(ask=lambda name: owner)
    value = personal("x", of="ann")
    assert await keys.reveal([value, personal("y", of="bob")]) == ["x", "y"]
    assert await keys.reveal([value]) == ["x"]
    assert owner.asked == [["ann", "bob"]]
    with pytest.raises(Unavailable, match="tells none"):
        await (await keys_of()).reveal([value])


def test_nothing_shows_what_it_holds() -> None:
    command = taken(author_id="ann", text="canary")
    assert "canary" not in f"{command} {command.text!r} {command.text}"
    for attempt in (encode, form_of(Write).encode, pickle.dumps, copy.deepcopy):
        with pytest.raises((Unfit, TypeError), match=r"nobody has concealed it") as raised:
            attempt(command)
        assert "canary" not in str(raised.value)


def test_what_is_kept_of_one_that_is_gone_is_read_and_what_is_no_concealed_value_is_not() -> None:
    assert decoder_of(Written).decode(b'{"author_id":"a","text":null}').text == Personal(MARK)
    with pytest.raises(msgspec.ValidationError, match="a personal value is expected") as raised:
        decoder_of(Written).decode(b'{"author_id":"a","text":"canary"}')
    assert "canary" not in str(raised.value)


class KeyIsPersonal(Event, source="key-letters", key="author"):
    author: Personal[str]


class AboutNobody(Command, key="author_id"):
    author_id: str
    text: Annotated[Personal[str], Subject("nobody")]


class Letter(Entity, key="letter_id", table="letters_of_personal"):
    letter_id: str
    text: Personal[str]


class ByMail(Entity, key="mail"):
    mail: Personal[str]


class ManyMails(Entity, key="id"):
    id: str
    mails: list[Personal[str]]


class OneMail(Entity, key="id", unique=[("mail",)]):
    id: str
    mail: Personal[str]


@pytest.mark.parametrize(
    ("entity", "told"),
    [
        (ByMail, r"test_personal\.py:\d+: ByMail\.mail is personal and can't be a key"),
        (ManyMails, r"ManyMails\.mails holds personal values inside of something else"),
        (OneMail, r"OneMail\.mail is personal and can't be unique"),
    ],
)
def test_a_row_that_can_not_be_so_is_refused_in_a_line_that_says_where(entity: type[Entity], told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        table_of(entity)


NO_WAYS: list[tuple[str, dict[str, object]]] = [("text", {}), ("", {"text": Range(gt="a")}), ("", {"text": "x"})]


@pytest.mark.parametrize(("order", "where"), NO_WAYS)
def test_nobody_is_found_by_a_personal_field(order: str, where: dict[str, object]) -> None:
    with pytest.raises(ChimeraError, match="can't be looked through by text, which is personal"):
        sought(Letter, where, order=order or ())


def test_a_service_with_personal_fields_does_not_start_without_a_key() -> None:
    letters = Service("letters")

    @letters.handle("POST /letters")
    async def write(command: Write, tx: Transaction) -> None: ...

    with pytest.raises(SettingsError, match=r"test_personal.py:\d+: Write has personal fields.*CHIMERA_PERSONAL__KEYS"):
        check_personal(letters, ())
    letters = Service("key-letters")

    @letters.handle("POST /letters")
    async def write_again(command: Write, tx: Transaction) -> None: ...

    with pytest.raises(DeclarationError, match=r"KeyIsPersonal\.author is personal and can't be a key"):
        check_personal(letters, (MASTER,))


def test_whom_it_is_about_must_be_a_field() -> None:
    letters = Service("letter-writers")

    @letters.handle("POST /letters")
    async def write(command: AboutNobody, tx: Transaction) -> None: ...

    with pytest.raises(DeclarationError, match=r'AboutNobody.text is about Subject\("nobody"\)'):
        check_personal(letters, (MASTER,))


async def keys_rows(store: MemoryStore) -> dict[str, Any]:
    async with store.snapshot() as session:
        return {row[0]: row for row in await session.scan(SUBJECTS, (), 100)}


class Connect(Command, key="shop_id"):
    shop_id: str
    token: Secret[str]


async def test_a_secret_is_concealed_and_is_no_persons_and_no_answer_shows_it() -> None:
    keys = await keys_of()
    command = taker_of(Connect).decode(b'{"shop_id":"s","token":"canary"}')
    data = await conceal_all(keys, command, "id")
    assert b"canary" not in data
    read = decoder_of(Connect).decode(data)
    assert [read.token] == [command.token]
    [shown] = await keys.reveal([read.token])
    assert shown == "canary"
    read.token.show(shown)
    assert tell(read) == b'{"shop_id":"s","token":null}'
    assert f"{read}" == "Connect(shop_id='s', token=Secret(…))"
