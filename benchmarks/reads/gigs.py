"""The gigs and their sellers' top clients: the same for everybody."""

import json

GIGS = 500
SELLERS = 100


def gig(number: int, sellers: int = SELLERS) -> dict[str, object]:
    return {
        "gig_id": f"g{number}",
        "seller_id": f"s{number % sellers}",
        "title": f"A logo for your company, number {number}",
        "category": "design",
        "price_cents": 5000 + number,
    }


def clients(number: int) -> list[dict[str, str]]:
    return [
        {"client_id": f"c{number}-{each}", "name": f"Client {each} of seller {number}", "industry": "retail"}
        for each in range(2)
    ]


def stored_gigs() -> dict[str, bytes]:
    return {f"g{number}": json.dumps(gig(number)).encode() for number in range(GIGS)}


def stored_clients() -> dict[str, bytes]:
    return {f"s{number}": json.dumps(clients(number)).encode() for number in range(SELLERS)}
