"""What an owner shares, and what an owner answers. How changes get into the journal is in test_transaction.py."""

import msgspec
import pytest

from chimera.body import Body
from chimera.owners import OwnStore, SharedHeads
from chimera.sharing import SharedChange, share_type
from tests.support import Card, Close, Deposit, NoOwner, direct, journal_of


async def test_an_owner_answers_with_the_documents_that_there_are(body: Body) -> None:
    await direct(body, Deposit("a", 5), Deposit("b", 6), Deposit("c", 7))
    await direct(body, Close("c"))
    found = await OwnStore(body.service, body.store).fetch("cards", ["b", "nobody", "a", "c"])
    assert {key: msgspec.json.decode(data, type=Card).balance for key, data in found.items()} == {"a": 5, "b": 6}


async def test_a_copy_made_of_the_journals_changes_is_what_the_owner_answers(body: Body) -> None:
    await direct(body, *(Deposit(f"k{n % 7}", n + 1) for n in range(40)))
    await direct(body, Close("k3"), Deposit("k4", 1))
    copy: dict[str, bytes] = {}
    for event in await journal_of(body.store):
        if event.type == share_type("accounts", "cards"):
            change = msgspec.json.decode(event.data, type=SharedChange)
            if change.removed:
                copy.pop(change.key, None)
            else:
                copy[change.key] = bytes(change.document)
    assert copy == await OwnStore(body.service, body.store).fetch("cards", [f"k{n}" for n in range(7)])


async def test_heads_are_asked_for_once_however_many_want_them() -> None:
    owner = NoOwner(ValueError("as told"))
    heads = SharedHeads(owner, every_s=60.0)
    for _ in range(3):
        with pytest.raises(ValueError, match="as told"):
            await heads()
    assert owner.calls == 1


async def test_heads_are_asked_for_again_after_a_while() -> None:
    owner = NoOwner(ValueError("as told"))
    heads = SharedHeads(owner, every_s=0.0)
    for _ in range(3):
        with pytest.raises(ValueError, match="as told"):
            await heads()
    assert owner.calls == 3
