"""Rules: what each says of whom, and that joining them is the logic of three values."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera import Caller, DeclarationError, Rule, anyone, owner_of, role, rule, scope, somebody, tenant_of
from chimera.parts import Asked
from chimera.rules import AllOf, AnyOf

ANN = Caller("ann", frozenset({"seller"}), {"scope": "read write"}, tenant="acme")


def says(what: Rule, caller: Caller | None, **fields: object) -> bool | None:
    return what.decide()(caller, lambda name: fields.get(name, msgspec.UNSET), {})


@pytest.mark.parametrize(
    ("what", "caller", "fields", "said"),
    [
        (anyone, None, {}, True),
        (somebody, None, {}, False),
        (somebody, ANN, {}, True),
        (role("admin", "seller"), ANN, {}, True),
        (role("admin"), ANN, {}, False),
        (role("admin"), None, {}, False),
        (scope("read"), ANN, {}, True),
        (scope("read", "write"), ANN, {}, True),
        (scope("read", "delete"), ANN, {}, False),
        (scope("read"), Caller("bob", claims={"scp": ["read", 1]}), {}, True),
        (scope("read"), Caller("bob", claims={"scope": {"read": True}}), {}, False),
        (scope("read"), Caller("bob"), {}, False),
        (owner_of("seller_id"), ANN, {"seller_id": "ann"}, True),
        (owner_of("seller_id"), ANN, {"seller_id": "Ann"}, False),
        (owner_of("seller_id"), ANN, {"seller_id": None}, False),
        (owner_of("seller_id"), ANN, {}, None),
        (owner_of("seller_id"), None, {}, False),
        (owner_of("seller_id"), None, {"seller_id": "ann"}, False),
        (owner_of("number"), Caller("7"), {"number": 7}, True),
        (owner_of("seller_id"), Caller(""), {"seller_id": ""}, False),
        (owner_of("seller_id"), Caller("None"), {"seller_id": None}, False),
        (tenant_of("tenant"), ANN, {"tenant": "acme"}, True),
        (tenant_of("tenant"), ANN, {"tenant": "ann"}, False),
        (tenant_of("tenant"), Caller("bob"), {"tenant": ""}, False),
    ],
)
def test_what_a_rule_says(what: Rule, caller: Caller | None, fields: dict[str, Any], said: bool | None) -> None:
    assert says(what, caller, **fields) is said


def test_a_rule_is_written_as_it_was_typed() -> None:
    assert str(owner_of("a") | role("x") & somebody) == "owner_of('a') | role('x') & somebody"
    assert str((owner_of("a") | role("x")) & scope("s")) == "(owner_of('a') | role('x')) & scope('s')"
    assert str(tenant_of("t") & anyone) == "tenant_of('t') & anyone"


LEAVES = {"yes": anyone, "no": role("nobody has it"), "open": owner_of("not known yet")}
VALUES: dict[str, bool | None] = {"yes": True, "no": False, "open": None}
Tree = Any
TREES = st.recursive(st.sampled_from(sorted(LEAVES)), lambda inner: st.tuples(st.sampled_from("|&"), inner, inner))


def rule_of(tree: Tree) -> Rule:
    if isinstance(tree, str):
        return LEAVES[tree]
    sign, left, right = tree
    return rule_of(left) | rule_of(right) if sign == "|" else rule_of(left) & rule_of(right)


def kleene(tree: Tree, opened: bool | None = None) -> bool | None:
    """The value of a tree, computed apart from any rule; `opened` is what open leaves turn out to be."""
    if isinstance(tree, str):
        return opened if tree == "open" else VALUES[tree]
    sign, *sides = tree
    values = [kleene(side, opened) for side in sides]
    settles = sign == "|"
    return settles if settles in values else None if None in values else not settles


@given(TREES)
def test_joined_rules_are_the_logic_of_three_values(tree: Tree) -> None:
    assert says(rule_of(tree), ANN) is kleene(tree)


@given(TREES)
def test_what_is_said_early_never_changes_once_all_is_known(tree: Tree) -> None:
    early = says(rule_of(tree), ANN)
    for owner in ("ann", "bob"):
        late = says(rule_of(tree), ANN, **{"not known yet": owner})
        assert late is kleene(tree, owner == "ann")
        assert early is None or early is late


@given(TREES)
def test_a_rule_names_every_part_of_itself(tree: Tree) -> None:
    leaves = [each for each in rule_of(tree).inner() if not isinstance(each, AnyOf | AllOf)]
    assert leaves == [LEAVES[word] for word in re.findall("yes|no|open", str(tree))]


def test_a_function_is_open_until_it_is_asked() -> None:
    async def asked(caller: Caller) -> bool:
        return True

    own = rule(asked)
    assert isinstance(own, Asked)
    assert says(own, ANN) is None
    assert own.decide()(ANN, lambda name: msgspec.UNSET, {own: True}) is True
    assert says(own & role("admin"), ANN) is False
    assert says(own | role("seller"), ANN) is True


def test_mistakes_say_what_to_type() -> None:
    async def unsure(caller: Caller) -> str:
        return "perhaps"

    def plain(caller: Caller) -> bool:
        return True

    with pytest.raises(DeclarationError, match=r"test_rules.py:\d+: unsure returns str; .*-> bool"):
        rule(unsure)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="async def plain"):
        rule(plain)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="join rules"):
        somebody | "admin"  # type: ignore[operator]
    with pytest.raises(DeclarationError, match="name what is asked for"):
        role()
    with pytest.raises(DeclarationError, match="name what is asked for"):
        owner_of("")
