"""Tokens between services: what makes one good, and everything that does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from chimera import Service
from chimera.core.clock import Clock
from chimera.web.permission.tokens import GOOD_S, SKEW_S, Peers, bearing, key_id

KEY, OTHER = "k" * 48, "o" * 48
ENDS = GOOD_S + SKEW_S
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class SetClock(Clock):
    """A clock that stands where it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.at = NOW

    def now(self) -> datetime:
        return self.at


class Shown(Struct):
    name: str = ""


def pages() -> Service:
    service = Service("pages")
    service.borrow("clients", Shown, owner="shop")
    service.borrow("other", Shown, owner="elsewhere")
    return service


def token(clock: Clock, key: str = KEY, owner: str = "shop") -> str:
    giving = bearing(pages(), owner, [key], clock)
    assert giving is not None
    return giving()


def made(**changes: Any) -> str:
    key, algorithm = changes.pop("key", KEY), changes.pop("algorithm", "HS256")
    headers = {"kid": changes.pop("kid", key_id(KEY))}
    began = int(NOW.timestamp())
    claims = {"iss": "chimera", "sub": "pages", "aud": "shop", "iat": began, "exp": began + GOOD_S, "borrows": []}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers=headers)


def test_a_token_says_who_asks_and_what_it_borrows_of_the_one_asked() -> None:
    peer = Peers("shop", [KEY], clock := SetClock()).read(token(clock))
    assert peer is not None
    assert (peer.name, peer.borrows) == ("pages", frozenset({"clients"}))


def test_a_token_is_for_one_owner_and_for_a_minute() -> None:
    clock = SetClock()
    shop, shown = Peers("shop", [KEY], clock), token(clock)
    assert Peers("orders", [KEY], clock).read(shown) is None
    for seconds, is_good in (
        (GOOD_S + SKEW_S - 1, True),
        (GOOD_S + SKEW_S, False),
        (-SKEW_S, True),
        (-SKEW_S - 1, False),
    ):
        clock.at = NOW + timedelta(seconds=seconds)
        assert (Peers("shop", [KEY], clock).read(shown) is not None) == is_good
    clock.at = NOW
    assert shop.read(shown) is not None
    clock.at = NOW + timedelta(seconds=GOOD_S + SKEW_S)
    assert shop.read(shown) is None, "what is remembered ends too"


def test_a_token_is_used_again_until_half_of_its_time() -> None:
    clock = SetClock()
    giving = bearing(pages(), "shop", [KEY], clock)
    assert giving is not None
    first = giving()
    clock.at += timedelta(seconds=GOOD_S / 2 - 1)
    assert giving() == first
    clock.at += timedelta(seconds=1)
    assert giving() != first


def test_keys_are_changed_with_an_overlap() -> None:
    clock = SetClock()
    both = Peers("shop", [OTHER, KEY], clock)
    assert both.read(token(clock, KEY)) is not None
    assert both.read(token(clock, OTHER)) is not None
    assert Peers("shop", [OTHER], clock).read(token(clock, KEY)) is None
    assert Peers("shop", [], clock).read(token(clock, KEY)) is None
    assert bearing(pages(), "shop", [], clock) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": None},
        {"aud": ""},
        {"aud": []},
        {"aud": ["shop", "orders"]},
        {"aud": "shops"},
        {"iss": "somebody"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"exp": None},
        {"iat": None},
        {"exp": int(NOW.timestamp()) + 86_400},
        {"exp": "soon"},
        {"iat": int(NOW.timestamp()) - 10_000, "exp": int(NOW.timestamp()) - 10_000 + GOOD_S},
        {"borrows": None},
        {"borrows": "clients"},
        {"borrows": [1]},
        {"kid": "another"},
        {"kid": key_id(OTHER)},
        {"key": OTHER},
        {"algorithm": "none", "key": ""},
        {"algorithm": "HS384"},
    ],
    ids=repr,
)
def test_what_is_not_a_token_of_the_fleet_is_nobodys(changes: dict[str, Any]) -> None:
    assert Peers("shop", [KEY], SetClock()).read(made()) is not None
    assert Peers("shop", [KEY], SetClock()).read(made(**changes)) is None


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert Peers("shop", [KEY], SetClock()).read(text) is None


@given(st.data())
def test_a_token_of_which_a_character_was_changed_is_nobodys(data: st.DataObject) -> None:
    good = made()
    at = data.draw(st.integers(0, len(good) - 2))  # the last one holds bits that nobody reads
    other = data.draw(st.sampled_from("abcXYZ019-_.").filter(lambda each: each != good[at]))
    assert Peers("shop", [KEY], SetClock()).read(good[:at] + other + good[at + 1 :]) is None


def test_what_names_a_key_tells_nothing_of_it() -> None:
    assert KEY not in key_id(KEY)
    assert key_id(KEY) != key_id(OTHER)
