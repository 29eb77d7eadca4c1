"""Faults in words."""

from __future__ import annotations

from chimera.testing.plans.plan import Fault, Kind

_WORDS: dict[Kind, str] = {
    "killed": "{process} is killed",
    "stopped": "{process} is stopped in order",
    "paused": "{process} is paused",
    "killed at a call": "{process} is to be killed {when} its next {point}",
    "upgraded": "{process} is upgraded to build {build}, {first} first, a process after another",
    "skewed": "the clock of {process} is {by_s:+.1f} s wrong",
    "refused": "{share} calls to {where} are refused",
    "unanswered": "{share} calls to {where} are done, and not answered",
    "slow": "{share} calls to {where} take {by_s:.2f} s in the mean",
    "conflict": "{share} commits to {where} end in a conflict",
    "cut": "{where} is cut off",
    "full": "the disk of {where} is full",
    "doubled": "{share} events appended to the log come twice",
    "lost": "{share} events appended to the log are lost, though confirmed",
    "late": "{share} events appended to the log come once more, after later ones",
    "emptied": "the log of the events of {process} is made anew",
    "wiped": "{where} loses all it has",
    "restored": "{where} is restored to what it had {by_s:.2f} s ago",
    "request lost": "{share} requests on {where} are lost",
    "answer lost": "the answers of {share} requests on {where} are lost",
    "request doubled": "{share} requests on {where} come twice",
    "request slow": "{share} requests on {where} take {by_s:.2f} s in the mean",
    "mode changed": "{process} is to borrow {what} in the mode {to}",
    "rebuilt": "{process} is to build the view {what} anew",
    "junk": "somebody writes junk into the topics of {process}",
    "uncarried": "the log can't carry one event of three any more",
    "retried": "a person has all tried again that {process} has parked",
}


def told(fault: Fault) -> str:
    """A fault in words."""
    words = _WORDS[fault.kind].format(
        process=fault.process,
        where=fault.engine + (f" for {fault.process}" if fault.process else ""),
        share=f"{fault.share:.0%} of the" if fault.share < 1 else "all",
        when="after" if fault.late else "before",
        point=fault.point,
        build=fault.build,
        first="read heads" if fault.late else "write heads",
        by_s=fault.by_s,
        what=fault.what,
        to=fault.to,
    )
    return words + (f" for {fault.for_s:.2f} s" if fault.for_s else "")
