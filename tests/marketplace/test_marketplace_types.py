from __future__ import annotations

import re

import msgspec
import pytest

from marketplace.orders.messages import PlaceOrder
from marketplace.top_clients.messages import AddClient
from marketplace.types import Id, Line, Prose

ORDER = {"order_id": "o1", "buyer_id": "b", "seller_id": "s", "gig_id": "g", "amount_cents": 5}


@pytest.mark.parametrize("text", ["a", "0f3.9_~:@-x", "A" * 128, "550e8400-e29b-41d4-a716-446655440000"])
def test_an_id_fits_one_path_segment(text: str) -> None:
    assert msgspec.convert(text, Id) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".x",
        "a/b",
        "a b",
        "a\n",
        "\x00",
        "a\x00",
        "é",
        "😀",
        "a%2F",
        "A" * 129,
    ],
)
def test_what_needs_escaping_is_no_id(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Id)


@pytest.mark.parametrize("text", ["Zoë", " O'Brien & <sons> ", "日本", "😀", "x" * 200])
def test_a_line_is_any_visible_text(text: str) -> None:
    assert msgspec.convert(text, Line) == text


@pytest.mark.parametrize("text", ["", " ", "\u00a0", "a\nb", "a\n", "a\x00", "\x1b[1m", "x" * 201])
def test_a_line_is_neither_blank_nor_holds_control_characters(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Line)


def test_prose_may_have_lines_but_no_nul() -> None:
    assert msgspec.convert("a\r\n\tb\n", Prose)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("a\x00", Prose)


@pytest.mark.parametrize("amount", [0, -1, 10**12 + 1, 1.5, "5", True])
def test_an_amount_is_a_positive_whole_number_with_a_bound(amount: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(ORDER | {"amount_cents": amount}, PlaceOrder)


@pytest.mark.parametrize(
    "at",
    [
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:30:00-01:00",
        "2025-01-01T00:00:00",
        "yesterday",
    ],
)
def test_a_time_has_a_zone_and_a_value_in_utc(at: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(ORDER | {"at": at}), type=PlaceOrder)


@pytest.mark.parametrize(
    "at",
    [
        None,
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999+00:00",
        "2025-01-01T00:00:00-03:00",
    ],
)
def test_a_time_may_be_left_out_or_carry_any_zone(at: str | None) -> None:
    assert msgspec.convert(ORDER | {"at": at}, PlaceOrder).order_id == "o1"


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"seller_id": "s", "name": "n", "colour": "red"}, AddClient)


def test_patterns_are_plain_enough_for_other_languages() -> None:
    for annotation in (Id, Line, Prose):
        pattern = msgspec.json.schema(annotation)["pattern"]
        assert not re.search(r"\\[AZz]|\(\?[P<#iLmsux]|[*+?}]\+", pattern)
