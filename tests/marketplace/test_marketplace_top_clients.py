from __future__ import annotations

import msgspec
import pytest

from chimera import Borrowed
from chimera.testing import given, running
from marketplace.top_clients.messages import (
    AddClient,
    ClientAdded,
    ClientRemoved,
    RemoveClient,
    ShownClients,
    TopClient,
    TopClients,
)
from marketplace.top_clients.model import MOST_CLIENTS, Client
from marketplace.top_clients.service import top_clients
from tests.marketplace.callers import OPERATOR

ACME = Client("s", "c", "Acme", None, 1)
on_every_store = pytest.mark.usefixtures("on_every_store")


@on_every_store
async def test_clients_are_listed_in_the_order_in_which_they_were_added() -> None:
    async with running(top_clients) as s:
        for client_id in ("z", "a", "m"):
            await s.post("/sellers/s/clients", {"client_id": client_id, "name": client_id.upper()}, caller=OPERATOR)
        await s.delete("/sellers/s/clients/a", caller=OPERATOR)
        await s.post("/sellers/s/clients", {"client_id": "a", "name": "Again", "industry": "Food"}, caller=OPERATOR)
        listed = (await s.get("/sellers/s/clients", caller=OPERATOR)).json()["clients"]
        assert [(each["client_id"], each["name"]) for each in listed] == [("z", "Z"), ("m", "M"), ("a", "Again")]


@on_every_store
async def test_a_client_without_an_id_is_given_one() -> None:
    tried = await given(top_clients).when(AddClient("s", "Acme")).tried()
    [made] = tried.rows(Client)
    assert made == Client("s", made.client_id, "Acme", None, 1)
    assert made.client_id
    assert tried.answer == {"client_id": made.client_id, "name": "Acme", "industry": None}
    tried.emitted(ClientAdded("s", made.client_id, "Acme"))


@on_every_store
async def test_a_client_is_added_once_per_seller() -> None:
    again = await given(top_clients, ACME).when(AddClient("s", "Acme", "c")).rejected("client_exists")
    assert again.status == 409
    assert again.events == []
    await given(top_clients, ACME).when(AddClient("other", "Acme", "c")).then(ClientAdded("other", "c", "Acme"))


@on_every_store
async def test_a_seller_has_at_most_a_hundred_clients() -> None:
    assert MOST_CLIENTS == 100
    full = [Client("s", f"c{number}", "Acme", None, number) for number in range(100)]
    added = await given(top_clients, *full[:99]).when(AddClient("s", "Acme", "the-last")).tried()
    added.emitted(ClientAdded("s", "the-last", "Acme"))
    assert len(added.rows(Client)) == 100
    refused = await given(top_clients, *full).when(AddClient("s", "Acme", "one-more")).rejected("clients_full")
    assert len(refused.rows(Client)) == 100


@on_every_store
async def test_removing_an_unknown_client_is_a_404() -> None:
    assert (await given(top_clients).when(RemoveClient("s", "nobody")).rejected("client_unknown")).status == 404


@on_every_store
async def test_what_is_shared_leaves_out_sellers_without_clients() -> None:
    removed = await given(top_clients, ACME).when(RemoveClient("s", "c")).then(ClientRemoved("s", "c"))
    assert removed.rows(Client) == []
    async with running(top_clients) as s:
        await s.post("/sellers/s/clients", {"client_id": "c", "name": "Acme", "industry": "Food"}, caller=OPERATOR)
        await s.post("/sellers/t/clients", {"client_id": "d", "name": "Bolt"}, caller=OPERATOR)
        await s.delete("/sellers/t/clients/d", caller=OPERATOR)
        shared = (await s.get("/_chimera/top-clients/share/top-clients?key=s&key=t&key=u")).json()["documents"]
        assert shared == {"s": msgspec.to_builtins(TopClients("s", [TopClient("c", "Acme", "Food")]))}
        assert (await s.get("/sellers/t/clients", caller=OPERATOR)).json() == {"seller_id": "t", "clients": []}


def test_borrowed_clients_are_shown_with_their_state() -> None:
    clients = [TopClient("c", "Acme")]
    shown = ShownClients.of(Borrowed(TopClients("s", clients), "stale", 12.34567))
    assert shown == ShownClients("stale", 12.346, clients)
    assert ShownClients.of(Borrowed(None, "absent", None)) == ShownClients("absent", None, [])
