"""Who may do what, as several services say it: operators may all, and others what is theirs."""

from __future__ import annotations

from chimera import Caller, Rejected, role

OPERATOR = "operator"
operator = role(OPERATOR)


def look_again(caller: Caller | None, *subjects: str) -> None:
    """Raises Rejected (403) where somebody is known who is none of these, and no operator.

    For a handler: what a rule has read before it may have changed meanwhile. Where nobody is known, no rule was asked.
    """
    if caller is not None and caller.subject not in subjects and OPERATOR not in caller.roles:
        raise Rejected("forbidden", "you may not do this", status=403)
