"""The names of all that is stored or sent, spelled here and nowhere else.

None of them may change: what an earlier release wrote is found under them (invariant 10).
"""

from __future__ import annotations

import hashlib

from chimera.messages import MAX_KEY

# Consumers: whatever keeps checkpoints.
COMMANDS = "commands"
DIRECT = "direct"
RELAY = "relay"

# Tables that every service's store has beside its own.
INBOX_TABLE = "chimera_inbox"
CHECKPOINTS_TABLE = "chimera_checkpoints"
PARKED_TABLE = "chimera_parked"
STARTS_TABLE = "chimera_starts"
LEASES_TABLE = "chimera_leases"
SHARED_TABLE = "chimera_shared"
CONSUMERS_TABLE = "chimera_consumers"
NAMES_TABLE = "chimera_names"
EPOCHS_TABLE = "chimera_epochs"
KEPT_TABLE = "chimera_kept"
BUILDS_TABLE = "chimera_builds"
TABLES_TABLE = "chimera_tables"
SUBJECTS_TABLE = "chimera_subjects"
FORGETTING_TABLE = "chimera_forgetting"

# Documents of Chimera's own in a view store.
BORROWS = "chimera.borrows"
GENERATIONS = "chimera.views"
AUDITS = "chimera.audits"
MARKS = "chimera.marks"


def commands_topic(service: str) -> str:
    """The topic of a service's commands."""
    return f"{service}.commands"


def events_topic(service: str) -> str:
    """The topic of a service's events."""
    return f"{service}.events"


def command_type(service: str, command: str) -> str:
    """The CloudEvents type of a command."""
    return f"{service}.{command}"


def share_type(owner: str, share: str) -> str:
    """The CloudEvents type of a share's changes."""
    return f"{owner}.share.{share}"


def forgotten_type(service: str) -> str:
    """The CloudEvents type of the event that says that a subject was forgotten: one that no declared event can have."""
    return f"{service}.~forgotten"


def reaction_consumer(reaction: str, source: str) -> str:
    """The consumer that a reaction is, to one source's events."""
    return f"{reaction}:{source}"


def reported_consumer(service: str, name: str) -> str:
    """The name, unique everywhere, by which a consumer is known to the owner of what it consumes."""
    return f"{service} {name}"


def copy_name(share: str, mode: str) -> str:
    """The name of the copy that a mode (async or hybrid) keeps of a share: its consumer and its documents."""
    return f"borrow.{share}.{mode}"


def borrow_name(share: str) -> str:
    """The name by which a view store's marks tell whose the copies of a share are, in whatever mode."""
    return f"borrow.{share}"


def looked_through(share: str) -> str:
    """The consumer that stands at a partition once it is known of every key there what was emitted of a share."""
    return f"share.{share}"


def announced(share: str) -> str:
    """The consumer that stands at a partition once every document of a share there was emitted."""
    return f"announced.{share}"


def generation_name(view: str, number: int) -> str:
    """The name under which a generation's documents and checkpoints are stored; the first one has the view's own."""
    return view if number == 1 else f"{view}~{number}"


def view_of(name: str) -> str:
    """The view whose generation has this name."""
    return name.partition("~")[0]


def report_key(view: str) -> str:
    """The key, in `GENERATIONS`, of the report about a view's last comparison."""
    return f"{view}~report"


def audit_key(share: str, partition: int) -> str:
    """The key, in `AUDITS`, of what the last audit of a copy found in a partition."""
    return f"{audits_of(share)}{partition}"


def audits_of(share: str) -> str:
    """The beginning of the keys, in `AUDITS`, of a share's audits."""
    return f"{share}/"


def parked_view(view: str) -> str:
    """The name under which a view's parked events are stored."""
    return f"{view}.parked"


def waiting_view(view: str) -> str:
    """The name under which the spans of a view's parked events are stored, by event key."""
    return f"{view}.waiting"


def starts_view(view: str) -> str:
    """The name under which the starts of a view or a copy are stored."""
    return f"{view}.starts"


def start_key(source: str, partition: int) -> str:
    """The key, in `starts_view` and `filling_view`, of a source's partition."""
    return f"{source}/{partition}"


def filling_view(view: str) -> str:
    """The name under which is stored which partitions of a copy are being filled (keys as `start_key`)."""
    return f"{view}.filling"


def counts_view(view: str) -> str:
    """The name under which the counts of a view's lists are stored."""
    return f"{view}.counts"


def listing_view(view: str) -> str:
    """The name under which is stored which documents of a view are in its lists, by the digests of those."""
    return f"{view}.listing"


def all_of(view: str) -> list[str]:
    """The names of all that is stored of a view: its documents, and what is beside them."""
    beside = (parked_view, waiting_view, starts_view, filling_view, counts_view, listing_view)
    return [view, *(name(view) for name in beside)]


def parked_key(key: str, number: int) -> str:
    """The key, in `parked_view`, of the event with a number among those of an event key that wait."""
    return f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}/{number}"


def kept_key(key: str) -> str:
    """A key as parked messages are stored by it: one that is too long, as only a foreign writer sends, by its hash."""
    if len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{key[: MAX_KEY - len(digest) - 1]}…{digest}"


def last_known_key(service: str, share: str, key: str) -> str:
    """The key under which a borrower's last known value is stored."""
    return f"{service}/{share}/{key}"


def worker_lease(holder: str, code: str) -> str:
    """The lease by which a worker says that it lives, and which code it runs (empty: it does not say)."""
    return f"{WORKER}{holder}/{code}" if code else f"{WORKER}{holder}"


def code_in(lease: str, holder: str) -> str:
    """The code that a worker's lease tells; empty where it does not."""
    return lease.removeprefix(worker_lease(holder, "")).removeprefix("/")


def partition_lease(partition: int) -> str:
    """The lease of a partition."""
    return f"{PARTITION}{partition}"


def standing_row(work: str) -> str:
    """The name of the row, among the leases, about a work that stands still."""
    return f"{STANDING}{work}"[:MAX_KEY]


PARTITION = "partition/"
"""How the name of every partition's lease begins."""

STANDING = "standing/"
"""How the name of every row about a work that stands still begins, among the leases."""

WORKER = "worker/"
"""How the name of every worker's lease begins."""
