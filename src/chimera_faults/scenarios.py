"""The scenarios, in the order in which they share a fleet."""

from __future__ import annotations

import signal

from chimera_faults.back_in_time import make_events_anew, put_commands_back, put_owner_back
from chimera_faults.driver import Traffic
from chimera_faults.one_message import emit_no_number, grow_document, wait_for_hanging
from chimera_faults.own_user import refuse_writes
from chimera_faults.points import Action, Armed
from chimera_faults.scenario import EVERY_STACK, SERVERS, Scenario
from chimera_faults.strikes import (
    add_junk,
    crash,
    cut_database,
    fill_disk,
    hold,
    jump,
    kill_in_commit,
    leave_open,
    poisoned,
    restart,
    roll,
    signal_heads,
    slow_down,
    trimmed,
    trouble_clients,
    wipe_views,
)
from chimera_faults.tally.owner import HANGING, NO_NUMBER

AGAIN = Traffic(more_s=600.0)
RESTART = Traffic(more_s=100.0, pause_s=0.2)
PATIENT = Traffic(more_s=180.0, pause_s=0.5)
POISON = Traffic(more_s=5.0, pause_s=0.2, poison="raise", poisoned=2)
DATABASES = {"rabbitmq-mysql": "mysql", "kafka-postgresql": "postgresql"}
BROKERS = {"rabbitmq-mysql": "rabbitmq", "kafka-postgresql": "kafka"}
OLD_ROWS, MANY_OLD_ROWS = 20_000, 5_000_000
TALLY_READS, TALLY_WRITES = "run tally --read", "run tally --write"
BOARD = "run board"


def _at(point: str, action: Action, nth: int = 2, times: int = 1, seconds: float = 0.0, where: str = "") -> Armed:
    return Armed("", point, action, nth, times, seconds, where)


SCENARIOS = (
    Scenario(
        "worker-killed-before-commit",
        "a write head is killed with a batch of commands done and not committed",
        [_at("commands.commit.before", "kill", 3)],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "worker-killed-in-commit",
        "a write head is killed a millisecond after it began to commit a batch",
        [_at("commands.commit.before", "kill", 3, seconds=0.001)],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "worker-killed-after-commit",
        "a write head is killed with a batch committed, before it knows",
        [_at("commands.commit.after", "kill", 3)],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "worker-killed-in-handler",
        "write heads are killed in the middle of a handler, and with commands read and not begun",
        [_at("commands.handler", "kill", 5), _at("commands.read", "kill", 4)],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "reaction-killed",
        "write heads are killed in the middle of a reaction, and before and after its commit",
        [_at(f"reaction.{step}", "kill") for step in ("handler", "commit.before", "commit.after")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "direct-killed",
        "read heads are killed in the middle of a direct command, and before and after its commit",
        [_at(f"direct.{step}", "kill") for step in ("handler", "commit.before", "commit.after")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "commit-reply-lost",
        "commits of commands, reactions, direct commands, leases and the relay's checkpoint happen, and their replies "
        "are lost",
        [_at(f"{work}.commit.after", "raise") for work in ("commands", "reaction", "direct", "leases", "relay")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "read-head-killed-before-201",
        "a read head is killed after the append and before the 201; the client sends the same Idempotency-Key again",
        [_at("commands.append.after", "kill"), _at("commands.append.before", "kill", 6)],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "confirm-lost",
        "appends of commands and events happen, and their confirms are lost",
        [_at("commands.append.after", "raise", times=4), _at("events.append.after", "raise", times=4)],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "append-fails",
        "the log takes no commands for a while; each is sent once, and a 503 means that nothing was kept",
        [_at("commands.append.before", "raise", times=15)],
        traffic=Traffic(once=True),
        stacks=EVERY_STACK,
    ),
    Scenario(
        "broker-down",
        "every call of the log fails for two seconds, in every process",
        [_at("log.call", "raise", 1, 0)],
        hold(2.0),
        stacks=EVERY_STACK,
    ),
    Scenario(
        "relay-killed",
        "relays are killed before and after publishing, and before and after their checkpoint",
        [_at(f"events.append.{step}", "kill", 3) for step in ("before", "after")]
        + [_at(f"relay.commit.{step}", "kill", 1) for step in ("before", "after")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "relay-paused-past-its-lease",
        "one of two relays stands still before it publishes, until another has its partitions, and then goes on",
        [_at("events.append.before", "pause")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "consumers-paused-past-their-leases",
        "a reaction's worker stands still with events in hand, a view's with documents folded, and then they go on",
        [_at("events.read", "pause", where=TALLY_WRITES), _at("view.write.before", "pause", where=BOARD)],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "view-writer-killed",
        "writers of views and copies are killed before and after they write",
        [_at(f"{kind}.write.{step}", "kill", 3) for kind in ("view", "copy") for step in ("before", "after")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "view-writers-collide",
        "two workers fold into one document at once: every write comes late",
        [_at("view.write.before", "delay", 1, 0, 0.03)],
        hold(2.0),
        stacks=EVERY_STACK,
    ),
    Scenario(
        "lease-holder-killed",
        "workers are killed before and after they renew their leases",
        [_at(f"leases.commit.{step}", "kill") for step in ("before", "after")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "transactions-roll-back",
        "commits of commands, reactions and direct commands fail again and again",
        [_at(f"{work}.commit.before", "raise", times=8) for work in ("commands", "reaction", "direct")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "transaction-left-open",
        "somebody holds every partition's head in an open transaction for three seconds, and rolls back",
        strike=leave_open(3.0),
        stacks=EVERY_STACK,
    ),
    Scenario(
        "transaction-left-open-for-minutes",
        "somebody holds every partition's head in an open transaction for two minutes, and rolls back",
        strike=leave_open(125.0),
        traffic=PATIENT,
        stacks=EVERY_STACK,
        fleet="patient",
        slow=True,
    ),
    Scenario(
        "transactions-commit-out-of-order",
        "transactions of every kind of head wait before they commit, so that others that began later commit first",
        [_at(f"{work}.commit.before", "delay", times=6, seconds=0.4) for work in ("commands", "reaction", "direct")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "delivered-five-times",
        "every command and event is delivered five times, shuffled across the partitions",
        [_at(f"{kind}.read", "repeat", 1, 0) for kind in ("commands", "events")],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "missing-from-the-middle",
        "the log confirms events and loses them, from the middle",
        [_at("events.append.before", "drop", 10, 12)],
        stacks=EVERY_STACK,
    ),
    Scenario(
        "event-too-large-for-the-broker",
        "the log refuses events as too large, whole calls of them and alone; they are fetched from the journal",
        [_at("events.append.before", "refuse", 10, 40)],
        parks=True,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "missing-from-the-tail",
        "the log confirms events and loses them, every one until the end",
        [_at("events.append.before", "drop", 10, 0)],
        keep_armed=True,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "poison-parked",
        "a command's handler always raises; later commands of its key wait behind it, others go on",
        strike=poisoned(redriven=False),
        traffic=POISON,
        parks=True,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "old-rows-trimmed",
        "retention drops twenty thousand old journal rows while write heads are killed before and after they drop some",
        [_at(f"trim.commit.{step}", "kill", 5) for step in ("before", "after")],
        trimmed(180.0),
        Traffic(more_s=180.0, pause_s=0.2),
        stacks=EVERY_STACK,
        fleet="old rows",
        rows=OLD_ROWS,
    ),
    Scenario(
        "poison-ends-its-process",
        "a command's handler ends its process whenever it is tried; it is set aside, and others go on",
        strike=poisoned(redriven=False, within_s=90.0),
        traffic=Traffic(more_s=90.0, pause_s=0.5, poison="kill", poisoned=1),
        parks=True,
        stacks=EVERY_STACK,
        fleet="old rows",
        rows=OLD_ROWS,
        slow=True,
    ),
    Scenario(
        "parked-redriven-twice",
        "commands are set aside, cured, and tried again by two operators at once",
        strike=poisoned(redriven=True),
        traffic=POISON,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "parked-redriven-after-the-inbox",
        "commands are set aside until the inbox has forgotten them, cured, and tried again by two operators at once",
        strike=poisoned(redriven=True, forgotten=True),
        traffic=POISON,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "redrive-killed",
        "write heads are killed while they try again what was set aside",
        [_at(f"redrive.{step}", "kill", 1) for step in ("handler", "commit.before", "commit.after")],
        poisoned(redriven=True),
        POISON,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "junk-in-the-log",
        "junk: unknown types, broken JSON, the wrong schema, fields that nothing holds; events with strange numbers",
        strike=add_junk,
        parks=True,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "handler-hangs",
        "handlers of two commands never return; others go on, and each counts as failed after its limit",
        strike=wait_for_hanging,
        traffic=Traffic(more_s=40.0, pause_s=0.2, poison=f"{HANGING}12", poisoned=2),
        stacks=EVERY_STACK,
        slow=True,
    ),
    Scenario(
        "no-number-emitted",
        "a handler emits a float that is no number, a direct command answers with one; both are refused there",
        strike=emit_no_number,
        traffic=Traffic(more_s=5.0, pause_s=0.2, poison=NO_NUMBER, poisoned=1),
        parks=True,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "document-too-large",
        "a view's document grows beyond what its engine (FerretDB) takes; it is set aside for its key, others go on",
        strike=grow_document(24),
        traffic=Traffic(keys=4, commands=2, more_s=300.0, pause_s=1.0),
        parks=True,
        stacks=SERVERS,
        fleet="documents",
        views="mongodb",
        slow=True,
        long=True,
    ),
    Scenario(
        "events-topic-made-anew",
        "the topic of events is deleted and made anew while everybody works",
        strike=make_events_anew,
        by_hand=True,
        stacks=EVERY_STACK,
        fleet="topic anew",
    ),
    Scenario(
        "commands-put-back",
        "the topic of commands is put back to an earlier moment, and grows past its old end before anybody reads it",
        strike=put_commands_back,
        by_hand=True,
        traffic=AGAIN,
        stacks=EVERY_STACK,
        fleet="commands back",
    ),
    Scenario(
        "owner-put-back",
        "the owner's database is put back to an earlier moment: all who have seen more say so, and the owner goes on",
        strike=put_owner_back,
        by_hand=True,
        traffic=RESTART,
        stacks=EVERY_STACK,
        fleet="put back",
        settles=False,
        slow=True,
    ),
    Scenario(
        "database-read-only",
        "the database takes no writes for five seconds, as after a failover, and then takes them again",
        strike=refuse_writes(5.0),
        stacks=SERVERS,
        fleet="read-only",
        own_user=True,
    ),
    Scenario(
        "store-down",
        "every call of the store fails for five seconds, in every process",
        [_at("store.call", "raise", 1, 0)],
        hold(5.0),
    ),
    Scenario(
        "store-down-a-minute",
        "every call of the store fails for a minute, in every process",
        [_at("store.call", "raise", 1, 0)],
        hold(60.0),
        PATIENT,
        fleet="old rows",
        rows=OLD_ROWS,
        slow=True,
    ),
    Scenario(
        "views-down",
        "every call of the view store fails for two seconds, in every process",
        [_at("views.call", "raise", 1, 0)],
        hold(2.0),
        slow=True,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "views-wiped",
        "every document and checkpoint of every view and copy is deleted",
        strike=wipe_views,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "borrower-cut-off",
        "the borrower can't reach the broker for three seconds",
        [_at("log.call", "raise", 1, 0, where=BOARD)],
        hold(3.0),
        stacks=EVERY_STACK,
    ),
    Scenario(
        "borrower-cut-off-a-minute",
        "the borrower can't reach the broker for a minute",
        [_at("log.call", "raise", 1, 0, where=BOARD)],
        hold(60.0),
        PATIENT,
        stacks=EVERY_STACK,
        fleet="patient",
        slow=True,
    ),
    Scenario(
        "slow-consumer",
        "the borrower's views are more than ten times too slow",
        strike=slow_down(0.2, 3.0),
        stacks=EVERY_STACK,
        slow=True,
    ),
    Scenario(
        "clients-cut-off",
        "answers come late, are cut in half and corrupted, and connections are reset",
        strike=trouble_clients("delay", "halve", "corrupt", "cut"),
    ),
    Scenario(
        "clock-jumps",
        "a worker's clock is ten minutes ahead when it is killed; then every clock jumps forward and back",
        strike=jump,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "heads-killed",
        "one head of each kind is killed with SIGKILL, wherever it is",
        strike=signal_heads((TALLY_READS, TALLY_WRITES, f"{BOARD} --write"), signal.SIGKILL),
        stacks=EVERY_STACK,
        slow=True,
    ),
    Scenario(
        "rolling-restart",
        "every head is stopped with SIGTERM, one after the other",
        strike=roll,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "fleet-killed",
        "every process is killed at once, and the fleet is started again",
        strike=crash,
        stacks=EVERY_STACK,
    ),
    Scenario(
        "database-cut-off",
        "every connection to the database is reset, and none is taken for five seconds",
        strike=cut_database("cut", 5.0),
        stacks=SERVERS,
    ),
    Scenario(
        "database-cut-off-a-minute",
        "every connection to the database is reset, and none is taken for a minute",
        strike=cut_database("cut", 60.0),
        traffic=PATIENT,
        stacks=SERVERS,
        fleet="old rows",
        rows=OLD_ROWS,
        slow=True,
    ),
    Scenario(
        "database-answers-cut-in-half",
        "half of an answer of the database arrives, and then the connection ends, for a second",
        strike=cut_database("halve", 1.0),
        stacks=SERVERS,
    ),
    Scenario(
        "broker-restarted",
        "the broker is stopped and started again with work in flight",
        strike=restart(BROKERS),
        traffic=RESTART,
        stacks=SERVERS,
        fleet="restarts",
        last=True,
    ),
    Scenario(
        "database-restarted",
        "the database is stopped and started again with work in flight",
        strike=restart(DATABASES),
        traffic=RESTART,
        stacks=SERVERS,
        fleet="restarts",
        last=True,
    ),
    Scenario(
        "database-killed-in-commit",
        "the database is killed with SIGKILL while a COMMIT is under way that it does not answer, and started again",
        strike=kill_in_commit(DATABASES),
        traffic=RESTART,
        stacks=SERVERS,
        fleet="restarts",
        last=True,
    ),
    Scenario(
        "disk-full",
        "the disk with all of SQLite's files is full for a while",
        strike=fill_disk,
        fleet="disk",
        disk_bytes=24_000_000,
    ),
    Scenario(
        "five-million-rows-trimmed",
        "retention drops five million old journal rows while heads are killed and commits fail",
        [
            *(_at(f"trim.commit.{step}", "kill", 100) for step in ("before", "after")),
            *(_at(f"{work}.commit.before", "raise", 50, times=8) for work in ("commands", "reaction", "direct")),
            _at("events.append.after", "kill", 50),
            _at("view.write.after", "kill", 50),
        ],
        trimmed(1800.0),
        Traffic(more_s=1800.0, pause_s=0.2),
        fleet="many old rows",
        rows=MANY_OLD_ROWS,
        slow=True,
        long=True,
    ),
)


def scenario_named(name: str) -> Scenario:
    """A scenario by its name. Raises KeyError."""
    return {scenario.name: scenario for scenario in SCENARIOS}[name]
