from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from chimera import Command
from marketplace.gig_page.messages import PublishGig
from marketplace.olist import Olist
from marketplace.orders.messages import MoveOrder, PlaceOrder, Stage
from marketplace.orders.model import refusal
from marketplace.requests import PHASES, Kind, Request, Skip, Source
from marketplace.seed import Seed
from marketplace.top_clients.messages import AddClient
from marketplace.user_page.messages import ChangeUser

COMMANDS: dict[Kind, tuple[type[Command], str]] = {
    "user": (ChangeUser, "user_id"),
    "gig": (PublishGig, "gig_id"),
    "client": (AddClient, "seller_id"),
    "order": (PlaceOrder, "order_id"),
    "stage": (MoveOrder, "order_id"),
}

FILES = {
    "orders": [
        "order_id,customer_id,order_status",
        "o1,b1,delivered",
        "o2,b2,canceled",
        "o3,b3,unavailable",
        "o4,b4,shipped",
    ],
    "order_events": [
        "ts,event,order_id,customer_id,seller_ids,final_status",
        "2017-01-01 00:00:01,created,o1,b1,s1;s2,delivered",
        "2017-01-01 00:00:02,created,o2,b2,s1,canceled",
        "2017-01-01 00:00:03,created,o3,b3,,unavailable",
        "2017-01-01 00:00:04,shipped,o4,b4,s2,shipped",
        "2017-01-01 00:00:05,created,o4,b4,s2,shipped",
        "2017-01-01 00:00:06,approved,o2,b2,s1,canceled",
        "2017-01-01 00:00:07,lost,o1,b1,s1;s2,delivered",
        "2017-01-01 00:00:08,delivered,o1,b1,s1;s2,delivered",
    ],
    "order_items": [
        "order_id,order_item_id,product_id,seller_id,price,freight_value",
        "o1,1,p1,s1,12.9,1.0",
        "o1,2,p2,s1,0.05,1.0",
        "o1,3,p1,s2,810.0,1.0",
        "o2,1,p1,s1,13.0,1.0",
        "o4,1,p3,s2,0.0,1.0",
    ],
    "products": ["product_id,category", "p1,cool_stuff", "p2,"],
    "sellers": ["seller_id,seller_zip_code_prefix,seller_city,seller_state", "s1,1,são paulo,SP", "s2,2,04482255,RJ"],
}


@pytest.fixture
def olist(tmp_path: Path) -> Olist:
    write_files(tmp_path)
    return Olist(tmp_path)


def write_files(folder: Path) -> None:
    for name, lines in FILES.items():
        with gzip.open(folder / f"{name}.csv.gz", "wt", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(line.split(",") for line in lines)


def of_kind(source: Source, *kinds: Kind) -> list[Request]:
    return [item for item in source if item.kind in kinds and not isinstance(item, Skip)]


def test_orders_are_split_by_seller_with_the_sum_of_their_items(olist: Olist) -> None:
    orders = [(item.key, item.body) for item in of_kind(olist, "order")]
    assert [(key, body["gig_id"], body["amount_cents"], body["at"]) for key, body in orders] == [
        ("o1.s1", "p1.s1", 1295, "2017-01-01T00:00:01Z"),
        ("o1.s2", "p1.s2", 81000, "2017-01-01T00:00:01Z"),
        ("o2.s1", "p1.s1", 1300, "2017-01-01T00:00:02Z"),
    ]


def test_stages_follow_in_file_order_and_a_cancellation_directly_after_the_last_event(olist: Olist) -> None:
    assert [(item.key, item.body) for item in of_kind(olist, "stage")] == [
        ("o2.s1", {"stage": "paid", "at": "2017-01-01T00:00:06Z"}),
        ("o2.s1", {"stage": "cancelled"}),
        ("o1.s1", {"stage": "delivered", "at": "2017-01-01T00:00:08Z"}),
        ("o1.s2", {"stage": "delivered", "at": "2017-01-01T00:00:08Z"}),
    ]


def test_whatever_is_left_out_is_counted_with_its_reason(olist: Olist) -> None:
    skipped = Counter((item.kind, item.reason) for item in olist if isinstance(item, Skip))
    assert skipped == {
        ("order", "no_items"): 1,
        ("stage", "no_items"): 1,
        ("order", "no_amount"): 1,
        ("stage", "no_amount"): 1,
        ("stage", "unknown_event"): 2,
    }
    assert olist.notes["order events in the file"] == 8
    assert olist.notes["order events added for further sellers"] == 3
    assert olist.notes["order events added for cancellations"] == 2
    assert olist.notes["sellers whose city is none, left out"] == 1
    assert olist.notes["gigs without a category, called uncategorised"] == 2


def test_sellers_and_gigs_keep_what_can_be_used(olist: Olist) -> None:
    assert [(item.path, item.body.get("city")) for item in of_kind(olist, "user")] == [
        ("/users/s1", "São Paulo"),
        ("/users/s2", None),
    ]
    assert [(item.path, item.body["title"], item.body["price_cents"]) for item in of_kind(olist, "gig")] == [
        ("/gigs/p1.s1", "Cool stuff p1", 1290),
        ("/gigs/p2.s1", "Uncategorised p2", 5),
        ("/gigs/p1.s2", "Cool stuff p1", 81000),
        ("/gigs/p3.s2", "Uncategorised p3", 0),
    ]


def test_busy_sellers_get_the_buyers_with_the_largest_spend(tmp_path: Path) -> None:
    write_files(tmp_path)
    olist = Olist(tmp_path, busy_orders=2, top_clients=1)
    assert [(item.key, item.body) for item in of_kind(olist, "client")] == [
        ("s1", {"client_id": "b2", "name": "Customer b2"}),
        ("s2", {"client_id": "b1", "name": "Customer b1"}),
    ]
    assert olist.total() == len(list(olist))


@pytest.fixture(params=["seed", "olist"])
def source(request: pytest.FixtureRequest, olist: Olist) -> Source:
    return Seed() if request.param == "seed" else olist


def test_a_source_yields_the_same_each_time_phase_by_phase_and_knows_how_much(source: Source) -> None:
    items = list(source)
    assert items == list(source)
    assert source.total() == len(items)
    phases = [next(number for number, kinds in enumerate(PHASES) if item.kind in kinds) for item in items]
    assert phases == sorted(phases)


def test_every_request_is_one_that_the_services_accept(source: Source) -> None:
    for item in source:
        if not isinstance(item, Skip):
            command, key = COMMANDS[item.kind]
            assert msgspec.convert({key: item.key} | item.body, command, strict=False).key == item.key


def test_the_seeded_marketplace_has_its_size_and_every_move_is_allowed() -> None:
    stages: dict[str, Stage] = {}
    counts: Counter[Kind] = Counter()
    for item in Seed():
        counts[item.kind] += 1
        assert isinstance(item, Request)
        if item.kind == "order":
            stages[item.key] = "placed"
        elif item.kind == "stage":
            assert refusal(stages[item.key], item.body["stage"]) is None
            stages[item.key] = item.body["stage"]
    assert (counts["user"], counts["gig"]) == (24, 70)
    assert (counts["client"], counts["order"]) == (60, 400)
    assert set(stages.values()) == {"placed", "paid", "started", "delivered", "completed", "cancelled"}


def test_another_seed_makes_another_marketplace() -> None:
    assert list(Seed(1)) != list(Seed(2))
