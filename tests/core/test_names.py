"""The names of what is stored and sent, as earlier releases wrote them (invariant 12): none of them may change."""

import pytest

from chimera.core import names
from chimera.core.tables import framework_tables
from chimera.messages import MAX_KEY

CONSTANTS = {
    "COMMANDS": "commands",
    "DIRECT": "direct",
    "RELAY": "relay",
    "INBOX_TABLE": "chimera_inbox",
    "CHECKPOINTS_TABLE": "chimera_checkpoints",
    "PARKED_TABLE": "chimera_parked",
    "STARTS_TABLE": "chimera_starts",
    "LEASES_TABLE": "chimera_leases",
    "SHARED_TABLE": "chimera_shared",
    "CONSUMERS_TABLE": "chimera_consumers",
    "NAMES_TABLE": "chimera_names",
    "EPOCHS_TABLE": "chimera_epochs",
    "KEPT_TABLE": "chimera_kept",
    "BUILDS_TABLE": "chimera_builds",
    "TABLES_TABLE": "chimera_tables",
    "SUBJECTS_TABLE": "chimera_subjects",
    "FORGETTING_TABLE": "chimera_forgetting",
    "STANDING": "standing/",
    "BORROWS": "chimera.borrows",
    "GENERATIONS": "chimera.views",
    "AUDITS": "chimera.audits",
    "MARKS": "chimera.marks",
    "PARTITION": "partition/",
    "WORKER": "worker/",
}
MADE: list[tuple[str, tuple[str | int, ...], object]] = [
    ("commands_topic", ("orders",), "orders.commands"),
    ("events_topic", ("orders",), "orders.events"),
    ("command_type", ("orders", "Place"), "orders.Place"),
    ("share_type", ("users", "profiles"), "users.share.profiles"),
    ("forgotten_type", ("users",), "users.~forgotten"),
    ("reaction_consumer", ("thank", "orders"), "thank:orders"),
    ("reported_consumer", ("shop", "thank"), "shop thank"),
    ("copy_name", ("profiles", "async"), "borrow.profiles.async"),
    ("copy_name", ("profiles", "hybrid"), "borrow.profiles.hybrid"),
    ("borrow_name", ("profiles",), "borrow.profiles"),
    ("looked_through", ("profiles",), "share.profiles"),
    ("announced", ("profiles",), "announced.profiles"),
    ("generation_name", ("sales", 1), "sales"),
    ("generation_name", ("sales", 12), "sales~12"),
    ("view_of", ("sales",), "sales"),
    ("view_of", ("sales~12",), "sales"),
    ("report_key", ("sales",), "sales~report"),
    ("audit_key", ("profiles", 3), "profiles/3"),
    ("audits_of", ("cards",), "cards/"),
    ("parked_view", ("sales",), "sales.parked"),
    ("waiting_view", ("sales",), "sales.waiting"),
    ("starts_view", ("sales",), "sales.starts"),
    ("filling_view", ("sales",), "sales.filling"),
    ("start_key", ("orders", 3), "orders/3"),
    ("counts_view", ("sales",), "sales.counts"),
    ("listing_view", ("sales",), "sales.listing"),
    (
        "all_of",
        ("sales",),
        [
            "sales",
            "sales.parked",
            "sales.waiting",
            "sales.starts",
            "sales.filling",
            "sales.counts",
            "sales.listing",
        ],
    ),
    ("parked_key", ("o1", 7), "f0cb5f5441e8e939448cf391a2daa37c/7"),
    ("kept_key", ("k" * 255,), "k" * 255),
    (
        "kept_key",
        ("k" * 256,),
        f"{'k' * 190}…ce16fe78208a4e93f7158e62393680e025b2ad584f4e875ce903a654bb74cf93",
    ),
    ("last_known_key", ("shop", "profiles", "u1"), "shop/profiles/u1"),
    ("worker_lease", ("w1", ""), "worker/w1"),
    ("worker_lease", ("w1", "3f2a"), "worker/w1/3f2a"),
    ("standing_row", ("orders relay",), "standing/orders relay"),
    ("code_in", ("worker/w1/3f2a", "w1"), "3f2a"),
    ("code_in", ("worker/w1", "w1"), ""),
    ("partition_lease", (3,), "partition/3"),
]


@pytest.mark.parametrize(("name", "text"), CONSTANTS.items())
def test_a_constant_is_what_it_was(name: str, text: str) -> None:
    assert getattr(names, name) == text


@pytest.mark.parametrize(("name", "arguments", "made"), MADE)
def test_a_name_is_made_as_it_was(name: str, arguments: tuple[str | int, ...], made: object) -> None:
    assert getattr(names, name)(*arguments) == made


def test_every_name_is_pinned_here() -> None:
    own = {name for name, value in vars(names).items() if getattr(value, "__module__", None) == names.__name__}
    assert own == {name for name, _, _ in MADE}
    constants = {name for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert constants == CONSTANTS.keys()


def test_a_key_that_is_kept_by_its_hash_is_no_longer_than_a_key_may_be() -> None:
    assert len(names.kept_key("k" * 10_000)) == MAX_KEY


def test_the_tables_and_their_columns_are_what_they_were() -> None:
    assert {table.name: " ".join(column.name for column in table.columns) for table in framework_tables()} == {
        "chimera_inbox": "command_id state reason detail positions status body at fingerprint more",
        "chimera_checkpoints": "consumer source partition number offset chain",
        "chimera_parked": "consumer key partition number source state id type time data traceparent cause tries "
        "first_at last_at due tried_by ends long_key traceback unread_by metadata",
        "chimera_starts": "consumer source partition number by trying ends killed",
        "chimera_leases": "name holder until",
        "chimera_shared": "share partition bucket key number digest",
        "chimera_consumers": "consumer partition number offset seen",
        "chimera_names": "kind name detail gone",
        "chimera_epochs": "partition offset number chain at",
        "chimera_kept": "consumer digest times",
        "chimera_builds": "code reads",
        "chimera_reserved": "digest name holder probe until told",
        "chimera_tables": "reaction state report tables",
        "chimera_snapshots": "entity key number code data",
        "chimera_subjects": "subject id wrapped master made_at forgotten_at",
        "chimera_forgetting": "subject by asked_at destroyed_at position done_at proof",
    }
