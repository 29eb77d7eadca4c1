"""A wrong declaration is refused where it is made, and the text says what to do."""

from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from chimera import Command, DeclarationError, Entity, Event, Reads, Reply, Service, Transaction, Unique
from chimera.parts import path_parameters
from tests.support import Account, Balance, Card, Deposit, Deposited, Opened


class Keyless(Command):
    name: str


class KeylessEvent(Event, source="accounts"):
    name: str


class Orphan(Event, key="name"):
    name: str


class Foreign(Event, source="orders", key="account_id"):
    account_id: str


async def handler(command: Deposit, tx: Transaction) -> None: ...


class Counted(msgspec.Struct):
    times: str


class Demanding(msgspec.Struct):
    account_id: str
    balance: int


async def waits(card: Balance, event: Opened) -> None: ...


def on_opened(card: Balance, event: Opened) -> None: ...


async def happened(event: Opened, tx: Transaction) -> None: ...


async def happened_often(events: list[Opened], tx: Transaction) -> None: ...


async def unannotated(command, tx) -> None: ...  # type: ignore[no-untyped-def]


async def keyless(command: Keyless, tx: Transaction) -> None: ...


async def missing_name(command: "Unheard", tx: Transaction) -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def cards(keys: list[str], tx: Reads) -> dict[str, Card]:
    return {}


async def unreturned(keys, tx): ...  # type: ignore[no-untyped-def]


async def query(account_id: str) -> None: ...


def fold(document: Any, event: Any) -> None: ...


class Numbered(Entity, key="name", unique=[("number",)]):
    name: str
    number: int


def unique_by(unique: Any) -> type[Entity]:
    class Sized(Entity, key="name", unique=unique):
        name: str
        size: float
        tags: list[str]

    return Sized


def twice(declare: Callable[[], Any]) -> None:
    declare()
    declare()


WRONG: list[tuple[Callable[[Service], Any], str]] = [
    (lambda s: Service("Accounts"), "use lower case letters, digits and dashes"),
    (lambda s: Service(""), "use lower case letters, digits and dashes"),
    (lambda s: Service("a_b"), "use lower case letters, digits and dashes"),
    (lambda s: Service("a", partitions=0), "from 1 to 256, not 0"),
    (lambda s: Service("a", partitions=257), "from 1 to 256, not 257"),
    (lambda s: s.view(Balance, key="colour"), "Balance has no field 'colour' to be its key"),
    (lambda s: s.event_sourced(Balance, key="colour"), "Balance has no field 'colour' to be its key"),
    (lambda s: s.view(Balance, key="account_id", path="/balances"), r"its path must hold \{account_id\} and no other"),
    (lambda s: s.view(Balance, key="account_id", path="/{a}/{account_id}"), "and no other parameter"),
    (lambda s: twice(lambda: s.view(Balance, key="account_id")), "already has a view 'balance'"),
    (lambda s: s.view(Balance, key="account_id").on(Keyless), r'class Keyless\(Event, source="…", key="…"\)'),
    (lambda s: s.view(Balance, key="account_id").on(KeylessEvent), "needs an owner and a key"),
    (lambda s: s.view(Balance, key="account_id").on(Orphan), "needs an owner and a key"),
    (lambda s: s.view(Counted, key="times").on(Opened), "name the field that holds the key with key="),
    (lambda s: s.view(Balance, key="account_id").on(Opened, key="colour"), "Opened has no field 'colour'"),
    (
        lambda s: s.handle()(unannotated),
        r"test_service.py:\d+: unannotated: its parameter 'tx' says no type; write: tx: Transaction",
    ),
    (lambda s: s.handle()(fold), r"test_service.py:\d+: fold is a def; write: async def fold"),  # type: ignore[type-var]
    (lambda s: s.handle()(query), "its first parameter 'account_id' must be annotated with a Command"),
    (lambda s: s.handle()(lambda: None), r"<lambda> is a def; write: async def"),  # type: ignore[type-var]
    (lambda s: s.handle()(keyless), r'class Keyless\(Command, key="…"\)'),
    (lambda s: s.handle()(missing_name), "annotations must be importable where it is declared"),
    (lambda s: twice(lambda: s.handle()(handler)), "already has a command 'Deposit'"),
    (lambda s: s.handle("accounts")(handler), "a route looks like: POST /orders"),
    (lambda s: s.handle("FETCH /accounts")(handler), "a route looks like: POST /orders"),
    (lambda s: s.handle("POST /a/{colour}")(handler), "parameter 'colour'; there are: account_id, amount"),
    (lambda s: s.get("/a/{colour}")(query), "parameter 'colour'; there are: account_id"),
    (lambda s: twice(lambda: s.get("/a/{account_id}")(query)), "already has a path"),
    (lambda s: s.share("cards", key="account_id", changed_by=[Opened])(unreturned), r"-> dict\[str, YourDocument\]"),
    (lambda s: s.share("cards", key="account_id", changed_by=[Foreign])(cards), "owned by 'orders', not 'accounts'"),
    (lambda s: s.share("cards", key="colour", changed_by=[Opened])(cards), "Opened has no field 'colour'"),
    (lambda s: twice(lambda: s.share("cards", key="account_id", changed_by=[Opened])(cards)), "already has a share"),
    (lambda s: s.view(Balance, key="account_id", unique=["account_id"]), "no view can be unique, .* tx.reserve"),  # type: ignore[arg-type]
    (lambda s: s.view(Balance, key="account_id").list("by", unique=True), "no view can be unique"),  # type: ignore[arg-type]
    (lambda s: s.view(Numbered, key="name"), r"tests/test_service.py:\d+: no view can be unique"),
    (
        lambda s: s.entity(unique_by([("colour",)])),
        r"test_service.py:\d+: Sized has no field 'colour' to be",
    ),
    (
        lambda s: s.entity(unique_by(["name"])),
        r"takes a list of .*, not 'name'; type: .*unique=\[\(\"tags\",\)\]",
    ),
    (lambda s: s.entity(unique_by("name")), "takes a list of tuples of fields"),
    (lambda s: s.entity(unique_by([()])), "takes a list of tuples of fields"),
    (lambda s: s.entity(unique_by([("size",)])), "Sized.size can't be unique: of floats"),
    (lambda s: s.entity(unique_by([("tags",)])), "Sized.tags can't be unique"),
    (lambda s: s.entity(unique_by([Unique("name", normalise={"colour": str.lower})])), "no field 'colour'"),
    (lambda s: s.entity(unique_by([Unique("name", normalise=len)])), "makes int of a text, not another text"),  # type: ignore[arg-type]
    (lambda s: type("Sized", (Command,), {}, unique=[("name",)]), "Sized: only rows can be unique"),
    (lambda s: s.borrow("cards", Card, mode="copy"), "mode is one of sync, async, hybrid, not 'copy'"),  # type: ignore[arg-type]
    (lambda s: twice(lambda: s.borrow("cards", Card)), "already has a borrow 'cards'"),
    (lambda s: s.view(Demanding, key="account_id"), r"Demanding.balance needs a default: .* write: balance: … = …"),
    (lambda s: s.view(Balance, key="account_id").on(Opened)(waits), r"waits folds, and a fold waits for nothing"),
    (
        lambda s: s.view(Balance, key="account_id").on(Deposited)(cast("Any", on_opened)),
        r"test_service.py:\d+: on_opened: its parameter 'event' is a Opened, and it is handed a Deposited",
    ),
    (lambda s: s.on(Opened)(handler), "handler: it is declared on Opened and takes Deposit; make them one"),  # type: ignore[arg-type]
    (lambda s: s.project(Opened)(happened), r"it is handed a batch; write: event: list\[Opened\]"),
    (lambda s: twice(lambda: s.on(Opened)(happened)), "already has a reaction 'happened"),
    (lambda s: twice(lambda: s.project(Opened)(happened_often)), "already has a reaction 'happened"),
]


@pytest.mark.parametrize(("declare", "says"), WRONG, ids=[f"{index}" for index in range(len(WRONG))])
def test_a_wrong_declaration_says_what_to_do(declare: Callable[[Service], Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declare(Service("accounts"))


def test_a_view_can_not_fold_one_event_in_two_ways() -> None:
    view = Service("accounts").view(Balance, key="account_id")
    view.on(Opened)(fold)
    with pytest.raises(DeclarationError, match="Balance already folds Opened"):
        view.on(Opened)(fold)


def test_a_declaration_returns_what_it_decorates() -> None:
    service = Service("accounts")
    assert service.handle()(handler) is handler
    assert service.entity(Account) is Account
    assert service.get("/accounts/{account_id}")(query) is query
    assert service.share("cards", key="account_id", changed_by=[Opened])(cards) is cards
    assert service.view(Balance, key="account_id").on(Opened)(fold) is fold


def test_a_view_is_called_after_its_document_and_knows_its_sources() -> None:
    service = Service("accounts")
    view = service.view(Balance, key="account_id", path="/accounts/{account_id}/balance?by=day")
    view.on(Opened)(fold)
    view.on(Foreign)(fold)
    assert (view.name, view.sources) == ("balance", {"accounts", "orders"})
    assert path_parameters(view.path or "") == ["account_id"]


def test_the_key_of_an_event_is_its_field_another_field_or_what_a_function_says() -> None:
    service = Service("accounts")
    view = service.view(Balance, key="account_id")
    view.on(Opened)(fold)
    view.on(Deposited, key="amount")(fold)
    view.on(Foreign, key=lambda event: [event.account_id, "all"])(fold)
    keys = [key_of(event) for event, (key_of, _) in zip(
        [Opened("a"), Deposited("a", 5), Foreign("f")], view.steps.values(), strict=True
    )]  # fmt: skip
    assert keys == ["a", "5", ["f", "all"]]


def test_statements_of_the_services_own_add_up_by_dialect() -> None:
    service = Service("accounts")
    service.schema({"sqlite": ["one"], "mysql": ["uno"]})
    service.schema({"sqlite": ["two"]})
    assert service.statements == {"sqlite": ("one", "two"), "mysql": ("uno",)}


def test_a_reply_is_200_unless_it_says_otherwise() -> None:
    assert Reply({"a": 1}).status == 200
    assert msgspec.json.encode(Reply({"a": 1}).body) == b'{"a":1}'
