"""Who may do what: small values, declared beside what they guard with `allow=`, and joined with `|` and `&`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from chimera.caller import Caller
from chimera.errors import DeclarationError

Values: TypeAlias = Callable[[str], object]
"""What is in a field of what was asked for, by the field's name; UNSET as long as that is not known."""
Told: TypeAlias = Mapping["Rule", bool]
"""What functions of the author's own have said, as far as they were asked."""
Decide: TypeAlias = Callable[[Caller | None, Values, Told], bool | None]
"""Whether she may, who asks or nobody; None where that can't be said yet."""


class Rule(msgspec.Struct, frozen=True):
    """Who may do something: `owner_of("seller_id") | role("admin")`."""

    def __or__(self, other: Rule) -> Rule:
        """Whoever may by one of the two."""
        return AnyOf((*_parts(self, AnyOf), *_parts(other, AnyOf)))

    def __and__(self, other: Rule) -> Rule:
        """Whoever may by both."""
        return AllOf((*_parts(self, AllOf), *_parts(other, AllOf)))

    def decide(self) -> Decide:
        """What decides by it, made once."""
        raise NotImplementedError

    def inner(self) -> Iterator[Rule]:
        """This rule, and all that it is made of."""
        yield self


class Anyone(Rule, frozen=True):
    """Whoever asks, known or not."""

    def decide(self) -> Decide:
        return lambda caller, values, told: True

    def __str__(self) -> str:
        return "anyone"


class Somebody(Rule, frozen=True):
    """Whoever is known."""

    def decide(self) -> Decide:
        return lambda caller, values, told: caller is not None

    def __str__(self) -> str:
        return "somebody"


class HasRole(Rule, frozen=True):
    """Whoever has one of these roles."""

    names: frozenset[str]

    def decide(self) -> Decide:
        return lambda caller, values, told: caller is not None and not self.names.isdisjoint(caller.roles)

    def __str__(self) -> str:
        return f"role({_quoted(sorted(self.names))})"


class HasScope(Rule, frozen=True):
    """Whoever was given all of these scopes: the claim `scope` (words in a text) or `scp` (a list)."""

    names: frozenset[str]

    def decide(self) -> Decide:
        return lambda caller, values, told: caller is not None and self.names <= _scopes(caller)

    def __str__(self) -> str:
        return f"scope({_quoted(sorted(self.names))})"


class OfField(Rule, frozen=True):
    """Whoever is what a field of what was asked for says: its owner by her subject, or of its tenant."""

    field: str
    is_tenant: bool = False

    def decide(self) -> Decide:
        field, is_tenant = self.field, self.is_tenant

        def decided(caller: Caller | None, values: Values, told: Told) -> bool | None:
            own = "" if caller is None else caller.tenant if is_tenant else caller.subject
            if not own:
                return False
            value = values(field)
            if value is msgspec.UNSET:
                return None
            return value is not None and (value if type(value) is str else str(value)) == own

        return decided

    def __str__(self) -> str:
        return f"{'tenant_of' if self.is_tenant else 'owner_of'}({self.field!r})"


class AnyOf(Rule, frozen=True):
    """Whoever may by one of several rules."""

    parts: tuple[Rule, ...]

    def decide(self) -> Decide:
        return _joined([part.decide() for part in self.parts], settles=True)

    def inner(self) -> Iterator[Rule]:
        yield self
        for part in self.parts:
            yield from part.inner()

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


class AllOf(Rule, frozen=True):
    """Whoever may by all of several rules."""

    parts: tuple[Rule, ...]

    def decide(self) -> Decide:
        return _joined([part.decide() for part in self.parts], settles=False)

    def inner(self) -> Iterator[Rule]:
        yield self
        for part in self.parts:
            yield from part.inner()

    def __str__(self) -> str:
        return " & ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.parts)


anyone: Rule = Anyone()
"""Whoever asks, known or not: what is open says so."""
somebody: Rule = Somebody()
"""Whoever is known."""


def role(*names: str) -> Rule:
    """Whoever has one of these roles."""
    return HasRole(frozenset(_texts("role", names)))


def scope(*names: str) -> Rule:
    """Whoever was given all of these scopes, as the claim `scope` (words in a text) or `scp` (a list) has them."""
    return HasScope(frozenset(_texts("scope", names)))


def owner_of(field: str) -> Rule:
    """Whoever's subject is in this field of what was asked for.

    That is a field of the command; of a query or an upload, a parameter; the key of a view, or a field of a list's
    `where`. An empty field is nobody's.
    """
    return OfField(_texts("owner_of", (field,))[0])


def tenant_of(field: str) -> Rule:
    """Whoever's tenant is in this field of what was asked for, as with `owner_of`."""
    return OfField(_texts("tenant_of", (field,))[0], is_tenant=True)


def _parts(rule: Rule, joined: type[AnyOf] | type[AllOf]) -> tuple[Rule, ...]:
    if not isinstance(rule, Rule):
        raise DeclarationError(f'{rule!r} is no rule; join rules, as in: owner_of("seller_id") | role("admin")')
    return rule.parts if isinstance(rule, joined) else (rule,)


def _joined(parts: list[Decide], *, settles: bool) -> Decide:
    """One answer of several: the one that `settles` if a part gives it, else not known if a part does not know."""
    first, *others = parts
    if not others:
        return first
    second = _joined(others, settles=settles)

    def decided(caller: Caller | None, values: Values, told: Told) -> bool | None:
        said = first(caller, values, told)
        if said is settles:
            return settles
        also = second(caller, values, told)
        return None if said is None and also is not settles else also

    return decided


def _scopes(caller: Caller) -> frozenset[str]:
    claims: Mapping[str, Any] = caller.claims
    given = claims.get("scope", claims.get("scp", ()))
    words = given.split() if isinstance(given, str) else given
    return frozenset(filter(_is_text, words)) if isinstance(words, list | tuple) else frozenset()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _texts(what: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or not all(isinstance(name, str) and name for name in names):
        raise DeclarationError(f'{what}({_quoted(names)}): name what is asked for, as in: {what}("seller_id")')
    return names


def _quoted(names: Any) -> str:
    return ", ".join(map(repr, names))
