"""The document that is read, 400 bytes of JSON: the same for everybody."""

import json

KEYS = 5000


def key_of(number: int) -> str:
    return f"s{number}"


def sales(number: int) -> dict[str, object]:
    return {
        "seller_id": key_of(number),
        "name": f"Seller number {number:05d} of the marketplace",
        "country": "BR",
        "orders": 1000 + number,
        "revenue_cents": 1_000_000 + number,
        "counts": {"placed": 400, "approved": 300, "shipped": 200, "delivered": 90, "canceled": 10},
        "by_day": {f"2026-01-{day:02d}": 100 + day for day in range(1, 9)},
        "updated_at": "2026-01-09T10:11:12.000013Z",
    }


def stored(number: int) -> bytes:
    return json.dumps(sales(number), separators=(",", ":")).encode()
