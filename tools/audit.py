"""What is known of the packages that are locked: whether they are installed so, were withdrawn, have advisories.

    python tools/audit.py

Asks the package index by pip, which says of each release whether it was yanked. Advisories are for pip-audit to tell.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from licences import LOCK, OWN, installed, locked

UNLOCKED = {OWN, "pip", "setuptools"}


def unlike_the_lock(here: Mapping[str, str], versions: Mapping[str, str]) -> list[str]:
    """The packages that are installed otherwise than locked; those that are locked and not needed here are none."""
    return [
        f"{name} {version} is installed, and {versions.get(name, 'no version of it')} is locked; type: make clean test"
        for name, version in sorted(here.items())
        if name not in UNLOCKED and versions.get(name) != version
    ]


def yanked(report: Mapping[str, Any]) -> list[str]:
    """The releases among those that pip would install that their authors have withdrawn."""
    return [
        f"{each['metadata']['name']} {each['metadata']['version']} was yanked from the index; lock another version"
        for each in report["install"]
        if each.get("is_yanked")
    ]


def asked() -> Mapping[str, Any] | str:
    """What pip says of the locked releases; a line that says why, where it says nothing."""
    typed = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", "-r", str(LOCK)]
    ran = subprocess.run(  # noqa: S603 - what is asked is above
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *typed],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        return (ran.stderr.strip().splitlines() or ["pip said nothing"])[-1]
    report: Mapping[str, Any] = json.loads(ran.stdout)
    return report


def advisories() -> tuple[bool, str]:
    """Whether pip-audit finds nothing, and what it says; where it is not there, what to type."""
    if (program := shutil.which("pip-audit")) is None:
        return (
            True,
            "advisories: not looked at, pip-audit is not installed; type: pipx run pip-audit -r constraints.txt",
        )
    typed = [program, "--requirement", str(LOCK), "--no-deps", "--disable-pip"]
    ran = subprocess.run(  # noqa: S603 - what is asked is above
        typed, capture_output=True, text=True, check=False
    )
    return not ran.returncode, f"advisories: {(ran.stdout + ran.stderr).strip()}"


def main() -> None:
    """Say what was found; the status is 1 where something is wrong."""
    here = {name: each.version for name, each in installed().items()}
    wrong = unlike_the_lock(here, locked())
    print(f"locked: {len(locked())} packages, {len(here)} installed, {len(wrong)} otherwise than locked")
    report = asked()
    if isinstance(report, str):
        print(f"yanked: not known, the index does not tell: {report}")
    else:
        wrong += yanked(report)
        print(f"yanked: {len(yanked(report))} of {len(report['install'])} releases")
    is_well, told = advisories()
    print(told)
    for each in wrong:
        print(each)
    sys.exit(bool(wrong) or not is_well)


if __name__ == "__main__":
    main()
