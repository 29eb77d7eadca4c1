from marketplace.rendering import render
from marketplace.top_clients.messages import TopClients


def clients_page(clients: TopClients) -> str:
    return render("clients.html", seller_id=clients.seller_id, clients=clients.clients)
