"""Mutants: processes of a fleet with a deliberate mistake, or with its control, put there by the faulty engines alone.

A rig that finds nothing may be blind. So `python -m chimera_faults --mutants` fails for any mistake that its scenario
lets pass, for any control that is found, and for any whose code was not the mistake that it says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from chimera.errors import SettingsError
from chimera.ports import Store, ViewStore
from chimera_faults.mistakes import KEEPING, MISTAKES
from chimera_faults.patching import Mistake, Patching
from chimera_faults.points import FOLDER, add_line

MUTANT = "FAULTS_MUTANT"
CONTROL = "FAULTS_CONTROL"
MADE = "mutant-made"
FAILED = "mutant-failed"


class Mutant(NamedTuple):
    """A mistake by its name, or its control."""

    name: str
    control: bool = False

    def environment(self) -> dict[str, str]:
        """What the processes of a fleet are told of it."""
        return {MUTANT: self.name, **({CONTROL: "1"} if self.control else {})}


def install(environment: Mapping[str, str]) -> None:
    """Patch this process with the mutant that the environment names, if any."""
    if (mistake := _chosen(environment)) and mistake.patch:
        mistake.patch(Patching(_wrong(environment), _failed))


def changed_store(store: Store, environment: Mapping[str, str]) -> Store:
    """The store as the mutant has it."""
    mistake = _chosen(environment)
    return mistake.store(store, _wrong(environment)) if mistake and mistake.store else store


def changed_views(views: ViewStore, environment: Mapping[str, str]) -> ViewStore:
    """The view store as the mutant has it."""
    mistake = _chosen(environment)
    return mistake.views(views, _wrong(environment)) if mistake and mistake.views else views


def void_because(folder: Path, *, control: bool) -> str:
    """Why a run with a mutant, or with its control, proves nothing; empty where it does."""
    if (folder / FAILED).exists():
        return f"its own code fails: {(folder / FAILED).read_text().splitlines()[0]}"
    if not control and not (folder / MADE).exists():
        return "no process has made the mistake"
    return "a control has made the mistake" if control and (folder / MADE).exists() else ""


def _wrong(environment: Mapping[str, str]) -> Callable[[], bool]:
    if environment.get(CONTROL):
        return lambda: False

    def wrong() -> bool:
        _note_made()
        return True

    return wrong


@cache
def _note_made() -> None:
    add_line(Path(os.environ[FOLDER]) / MADE, str(os.getpid()).encode())


def _failed(what: str) -> None:
    add_line(Path(os.environ[FOLDER]) / FAILED, what.encode())


def _chosen(environment: Mapping[str, str]) -> Mistake | None:
    name = environment.get(MUTANT)
    known = MISTAKES | KEEPING
    if name and name not in known:
        raise SettingsError(f"there is no mutant {name!r}; there are: {', '.join(known)}")
    return known[name] if name else None
