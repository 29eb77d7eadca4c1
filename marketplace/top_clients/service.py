"""The owner of the sellers' top clients: a seller who edits them sees them at once."""

from collections import defaultdict

from chimera import Reader, Reads, Rejected, Service, Transaction, owner_of
from marketplace.callers import operator
from marketplace.top_clients.messages import (
    AddClient,
    ClientAdded,
    ClientRemoved,
    RemoveClient,
    TopClient,
    TopClients,
)
from marketplace.top_clients.model import MOST_CLIENTS, Client, in_order
from marketplace.top_clients.pages import clients_page
from marketplace.types import Id

top_clients = Service("top-clients")
top_clients.entity(Client)
hers = owner_of("seller_id") | operator


@top_clients.handle(
    "POST /sellers/{seller_id}/clients", direct=True, location="/sellers/{seller_id}/clients", allow=hers
)
async def add_client(command: AddClient, tx: Transaction) -> TopClient:
    clients = await tx.find(Client, seller_id=command.seller_id)
    client_id = command.client_id or tx.new_id()
    if any(client.client_id == client_id for client in clients):
        raise Rejected("client_exists", f"{command.seller_id} has a client {client_id} already")
    if len(clients) >= MOST_CLIENTS:
        raise Rejected("clients_full", f"a seller shows at most {MOST_CLIENTS} clients; remove one first")
    place = max((client.place for client in clients), default=0) + 1
    tx.save(Client(command.seller_id, client_id, command.name, command.industry, place))
    tx.emit(ClientAdded(command.seller_id, client_id, command.name, command.industry))
    return TopClient(client_id, command.name, command.industry)


@top_clients.handle("DELETE /sellers/{seller_id}/clients/{client_id}", direct=True, allow=hers)
async def remove_client(command: RemoveClient, tx: Transaction) -> TopClient:
    client = await tx.load(Client, command.seller_id, command.client_id)
    if client is None:
        raise Rejected("client_unknown", f"{command.seller_id} has no client {command.client_id}", status=404)
    tx.delete(client)
    tx.emit(ClientRemoved(command.seller_id, command.client_id))
    return TopClient(client.client_id, client.name, client.industry)


@top_clients.get("/sellers/{seller_id}/clients", page=clients_page, allow=hers)
async def own_clients(seller_id: Id, read: Reader) -> TopClients:
    return TopClients(seller_id, in_order(await read.find(Client, seller_id=seller_id)))


@top_clients.share("top-clients", key="seller_id", changed_by=[ClientAdded, ClientRemoved])
async def clients_of(seller_ids: list[str], read: Reads) -> dict[str, TopClients]:
    by_seller: dict[str, list[Client]] = defaultdict(list)
    for client in await read.find(Client, seller_id=seller_ids):
        by_seller[client.seller_id].append(client)
    return {seller_id: TopClients(seller_id, in_order(clients)) for seller_id, clients in by_seller.items()}
