from chimera import Entity
from marketplace.top_clients.messages import TopClient

MOST_CLIENTS = 100


class Client(Entity, key=("seller_id", "client_id"), table="clients"):
    """`place` grows with every client that the seller adds."""

    seller_id: str
    client_id: str
    name: str
    industry: str | None
    place: int


def in_order(clients: list[Client]) -> list[TopClient]:
    ordered = sorted(clients, key=lambda client: (client.place, client.client_id))
    return [TopClient(client.client_id, client.name, client.industry) for client in ordered]
