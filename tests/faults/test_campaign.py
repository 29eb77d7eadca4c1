"""Which scenarios share a fleet, a proxy that keeps answers back, and a journal full of old events."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from chimera.core.timing import Retention
from chimera.testing.kit.balance import pending
from chimera.testing.waiting import eventually
from chimera.upkeep.retention import Trimming
from chimera_faults.campaign import CampaignPlan, fleets_of
from chimera_faults.history import write_history
from chimera_faults.proxy import Proxy
from chimera_faults.rig import Rig
from chimera_faults.scenario import EMBEDDED, EVERY_STACK, Scenario
from chimera_faults.stacks import stack_of
from chimera_faults.workload import Tallying


def names_of(groups: list[list[Scenario]]) -> list[list[str]]:
    return [[scenario.name for scenario in group] for group in groups]


def test_scenarios_that_name_a_fleet_share_it_and_the_others_are_spread() -> None:
    named = [
        Scenario(name, "", fleet=fleet) for name, fleet in (("a", ""), ("b", "x"), ("c", ""), ("d", "x"), ("e", ""))
    ]
    assert names_of(fleets_of(named, 2)) == [["a", "e"], ["c"], ["b", "d"]]
    assert names_of(fleets_of(named[:1], 3)) == [["a"]]


@pytest.mark.parametrize("stack", EVERY_STACK)
def test_those_who_share_a_fleet_agree_on_what_it_has(stack: str) -> None:
    for group in fleets_of(CampaignPlan((stack,), (), "1", False, None, Tallying(), long=True).scenarios(stack), 3):
        assert len({(each.last, each.disk_bytes, each.rows) for each in group}) == 1


def test_what_takes_many_minutes_is_run_only_for_those_who_ask() -> None:
    def is_in(plan: CampaignPlan) -> bool:
        return "five-million-rows-trimmed" in [scenario.name for scenario in plan.scenarios(EMBEDDED)]

    plan = CampaignPlan((EMBEDDED,), (), "1", False, None, Tallying())
    assert not is_in(plan)
    assert is_in(plan._replace(long=True))
    assert is_in(plan._replace(names=("five-million-rows-trimmed",)))


async def test_a_proxy_keeps_every_answer_back_from_when_a_word_has_passed_until_it_is_cut() -> None:
    received: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            received.append(chunk)
            writer.write(b"ok")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
    await proxy.start()
    (reader, writer), (other_reader, other_writer) = [
        await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(2)
    ]
    holding = asyncio.ensure_future(proxy.hold_after(b"COMMIT"))
    writer.write(b"BEGIN")
    assert await reader.read(100) == b"ok"
    writer.write(b"COMMIT")
    await holding
    other_writer.write(b"SELECT")
    await eventually(lambda: received == [b"BEGIN", b"COMMIT", b"SELECT"] and proxy.struck == 2)
    proxy.make("cut")
    for each in (reader, other_reader):
        with suppress(ConnectionResetError):
            assert await each.read(100) == b""
    for end in (writer, other_writer):
        end.close()
    await proxy.close()
    server.close()
    await server.wait_closed()


async def test_a_journal_with_old_events_holds_nobody_up_and_is_trimmed_to_its_end(tmp_path: Path) -> None:
    rig = Rig(stack_of(EMBEDDED, "t"), Tallying(), tmp_path)
    async with rig.contexts() as contexts:
        await write_history(contexts, "tally", 12_000)
        tally = contexts["tally"]
        assert dict(await tally.store.heads()) == dict.fromkeys(range(4), 3_000)
        assert await pending({"tally": tally}) == []
        keeping = replace(tally, retention=Retention(journal_days=1))
        await Trimming(keeping, range(4)).trim_store()
        assert dict(await tally.store.oldest()) == dict.fromkeys(range(4), 3_001)
