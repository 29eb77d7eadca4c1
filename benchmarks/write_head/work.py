"""The commands: every order is placed once, which inserts a row, and later once more, which updates it."""

from collections.abc import Iterator


def orders(count: int) -> Iterator[dict[str, object]]:
    for turn in range(2):
        for number in range(count // 2):
            yield {
                "order_id": f"o{number}",
                "seller_id": f"s{number % 5000}",
                "gig_id": f"g{number % 5000}",
                "amount_cents": 1000 + turn,
                "note": "As soon as you can.",
            }
