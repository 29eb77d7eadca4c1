from __future__ import annotations

import pytest

from chimera import Borrowed, Rejected
from marketplace.top_clients.messages import (
    AddClient,
    ClientAdded,
    ClientRemoved,
    RemoveClient,
    ShownClients,
    TopClient,
    TopClients,
)
from marketplace.top_clients.service import add_client, clients_of, own_clients, remove_client
from tests.marketplace.fakes import FakeReader, HandlersTransaction


async def test_clients_are_listed_in_the_order_in_which_they_were_added(tx: HandlersTransaction) -> None:
    for client_id in ("z", "a", "m"):
        await add_client(AddClient("s", client_id.upper(), client_id), tx)
    await remove_client(RemoveClient("s", "a"), tx)
    await add_client(AddClient("s", "Again", "a", "Food"), tx)
    listed = await own_clients("s", FakeReader(tx))
    assert [(client.client_id, client.name) for client in listed.clients] == [("z", "Z"), ("m", "M"), ("a", "Again")]


async def test_a_client_without_an_id_is_given_one(tx: HandlersTransaction) -> None:
    added = await add_client(AddClient("s", "Acme"), tx)
    assert added == TopClient("made-1", "Acme")
    assert tx.emitted == [ClientAdded("s", "made-1", "Acme")]


async def test_a_client_is_added_once_per_seller(tx: HandlersTransaction) -> None:
    await add_client(AddClient("s", "Acme", "c"), tx)
    await add_client(AddClient("other", "Acme", "c"), tx)
    with pytest.raises(Rejected) as refused:
        await add_client(AddClient("s", "Acme", "c"), tx)
    assert (refused.value.reason, refused.value.status) == ("client_exists", 409)


async def test_a_seller_has_at_most_a_hundred_clients(tx: HandlersTransaction) -> None:
    for number in range(100):
        await add_client(AddClient("s", "Acme", f"c{number}"), tx)
    with pytest.raises(Rejected) as refused:
        await add_client(AddClient("s", "Acme", "one-more"), tx)
    assert refused.value.reason == "clients_full"


async def test_removing_an_unknown_client_is_a_404(tx: HandlersTransaction) -> None:
    with pytest.raises(Rejected) as refused:
        await remove_client(RemoveClient("s", "nobody"), tx)
    assert (refused.value.reason, refused.value.status) == ("client_unknown", 404)


async def test_what_is_shared_leaves_out_sellers_without_clients(tx: HandlersTransaction) -> None:
    await add_client(AddClient("s", "Acme", "c", "Food"), tx)
    await add_client(AddClient("t", "Bolt", "d"), tx)
    await remove_client(RemoveClient("t", "d"), tx)
    assert await clients_of(["s", "t", "u"], tx) == {"s": TopClients("s", [TopClient("c", "Acme", "Food")])}
    assert tx.emitted[-1] == ClientRemoved("t", "d")
    assert (await own_clients("t", FakeReader(tx))).clients == []


def test_borrowed_clients_are_shown_with_their_state() -> None:
    clients = [TopClient("c", "Acme")]
    shown = ShownClients.of(Borrowed(TopClients("s", clients), "stale", 12.34567))
    assert shown == ShownClients("stale", 12.346, clients)
    assert ShownClients.of(Borrowed(None, "absent", None)) == ShownClients("absent", None, [])
