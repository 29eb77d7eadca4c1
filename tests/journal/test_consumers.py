"""The one list of what keeps checkpoints."""

import msgspec
import pytest

from chimera import Event, Service, Transaction
from chimera.commands.handlers import executors_of
from chimera.core.context import Context
from chimera.journal.consumers import COPYING, Consumer, consumers_of, document_consumers, other_sources
from tests.support import Bank, Shop


class Placed(Event, source="orders", key="order_id"):
    order_id: str


class Paid(Event, source="billing", key="order_id"):
    order_id: str


class Sold(Event, source="shop", key="order_id"):
    order_id: str


class Sales(msgspec.Struct):
    order_id: str


@pytest.fixture
def shop() -> Service:
    """A service that takes events of two others and its own, and borrows from the bank."""
    service = Shop(mode="hybrid").service
    sales = service.view(Sales, key="order_id")

    for event_type in (Placed, Paid, Sold):

        @sales.on(event_type)
        def counted(document: Sales, event: Event) -> None: ...

    @service.on(Placed)
    async def thank(event: Placed, tx: Transaction) -> None: ...

    @service.project(Placed, Paid)
    async def enter(events: list[Event], tx: Transaction) -> None: ...

    return service


def places(service: Service) -> list[tuple[str, str, str]]:
    return [(each.kind, each.name, each.source) for each in consumers_of(service)]


def test_every_service_takes_its_commands_and_relays_its_events() -> None:
    assert places(Service("empty")) == [("commands", "commands", "empty.commands"), ("relay", "relay", "empty")]


def test_each_view_reaction_and_copy_is_there_once_for_each_source_that_it_reads(shop: Service) -> None:
    assert places(shop) == [
        ("commands", "commands", "shop.commands"),
        ("relay", "relay", "shop"),
        ("view", "sales", "billing"),
        ("view", "sales", "orders"),
        ("view", "sales", "shop"),
        ("reaction", "thank:orders", "orders"),
        ("reaction", "enter:billing", "billing"),
        ("reaction", "enter:orders", "orders"),
        ("copy", "borrow.cards.async", "accounts"),
        ("copy", "borrow.cards.hybrid", "accounts"),
    ]


def test_copies_are_kept_by_every_mode_that_keeps_one_whatever_is_declared() -> None:
    for mode in ("sync", *COPYING):
        copies = [each for each in consumers_of(Shop(mode=mode).service) if each.kind == "copy"]
        assert [each.mode for each in copies] == ["async", "hybrid"]


def test_each_knows_what_was_declared(shop: Service) -> None:
    declared = {each.name: each.declared for each in consumers_of(shop)}
    assert declared["commands"] is declared["relay"] is None
    assert declared["sales"] is shop.views["sales"]
    assert declared["enter:billing"] is declared["enter:orders"] is shop.reactions["enter"]
    assert declared["borrow.cards.async"] is shop.borrows["cards"]


def test_views_and_copies_keep_documents_and_all_but_the_relay_park(shop: Service) -> None:
    keeping = {each.kind for each in consumers_of(shop) if each.keeps_documents}
    parking = {each.kind for each in consumers_of(shop) if each.parks}
    assert keeping == {"view", "copy"}
    assert parking == {"commands", "view", "reaction", "copy"}


def test_a_reaction_is_reported_by_its_own_name_and_the_others_by_that_of_their_checkpoints(shop: Service) -> None:
    reported = {each.name: each.reported for each in consumers_of(shop)}
    assert reported["thank:orders"] == "thank"
    assert reported["enter:billing"] == reported["enter:orders"] == "enter"
    assert all(reported[name] == name for name in ("commands", "relay", "sales", "borrow.cards.async"))


def test_other_sources_are_those_of_views_reactions_and_borrows_without_the_service_itself(shop: Service) -> None:
    assert other_sources(shop) == ["accounts", "billing", "orders"]
    assert other_sources(Bank().service) == []


def test_what_keeps_documents_is_listed_once_however_many_sources_it_has(shop: Service) -> None:
    found: dict[str, Consumer] = document_consumers(shop)
    assert list(found) == ["sales", "borrow.cards.async", "borrow.cards.hybrid"]


async def test_what_parks_in_the_store_has_an_executor_of_its_name(context: Context) -> None:
    names = {each.name for each in consumers_of(context.service) if each.parks and not each.keeps_documents}
    executors = executors_of(context)
    assert names == executors.keys() == {"commands", "thank:accounts", "enter:accounts"}
    assert all(executor.consumer == name for name, executor in executors.items())
