"""The licences of what Chimera stands on: written to docs/licences.md, and compared with what may be used.

    python tools/licences.py [--check]

What is installed says its licence itself (PEP 639, or the older fields); how it is used follows from pyproject.toml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
LOCK = ROOT / "constraints.txt"
OWN = "chimera-kit"

ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "PSF-2.0",
        "Zlib",
    }
)
"""Licences that ask for no more than to be named."""
ALLOWED_BESIDE = ALLOWED | {"MPL-2.0"}
"""Those of what only develops and tests: nothing of it is in what is installed with the library."""
AS_IT_IS = {"certifi": "MPL-2.0"}
"""Of what an extra brings along, that which is used without a change: a list of certificates, for tests of services."""
SAID = {
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache": "Apache-2.0",
    "bsd 3-clause license": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the mit license (mit)": "MIT",
}
"""What packages say in words, by its SPDX identifier."""
LOOKED_UP = {"rich-click": "MIT", "kubernetes-validate": "Apache-2.0"}
"""What packages say in their texts only."""
USES = ("library", "an extra", "development")

HEAD = """# Licences

What `chimera-kit` stands on, as it is locked in `constraints.txt`, with the licence that each package says it has.
Written by `make licences`; `make check` fails where one has a licence that may not be used. Those that may:
{allowed}. To develop and test it,
and for certifi, which is used as it is, {beside} too.

| package | version | licence | used by |
|---|---|---|---|
"""


class Package(NamedTuple):
    """A package that is locked and installed. `use`: by the library, an extra of it, or in development only."""

    name: str
    version: str
    licence: str
    use: str


def licence_of(found: metadata.Distribution) -> str:
    """The licence of an installed package as an SPDX expression; what it says, where that is none that is known."""
    name, said = canonicalize_name(found.name), found.metadata
    if "License-Expression" in said:
        return said["License-Expression"]
    classified = [each.rpartition(":: ")[2] for each in said.get_all("Classifier", []) if each.startswith("License ")]
    words = str((said.get_all("License") or [""])[0]).strip().partition("\n")[0].strip()
    if words in ALLOWED_BESIDE or " OR " in words:
        return words
    known = sorted({SAID[each.lower()] for each in [words, *classified] if each.lower() in SAID})
    return " AND ".join(known) or LOOKED_UP.get(name) or words or "unknown"


def is_allowed(expression: str, allowed: frozenset[str]) -> bool:
    """Whether an SPDX expression of AND and OR leaves a way in which only allowed licences hold."""
    plain = expression.replace("(", " ").replace(")", " ")
    return any(all(each.strip() in allowed for each in way.split(" AND ")) for way in plain.split(" OR "))


def installed() -> dict[str, metadata.Distribution]:
    """What is installed here, by canonical name."""
    return {canonicalize_name(each.name): each for each in metadata.distributions()}


def locked() -> dict[str, str]:
    """The versions that are locked, by canonical name."""
    lines = [line.partition("#")[0].strip() for line in LOCK.read_text().splitlines()]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def needed_by(names: Iterable[str], here: Mapping[str, metadata.Distribution], extras: Iterable[str]) -> set[str]:
    """The packages that these need, with all that those need; of the first ones with extras."""
    found, seen = set[str](), set[tuple[str, frozenset[str]]]()
    left = [(canonicalize_name(name), frozenset(extras)) for name in names]
    while left:
        name, wanted = each = left.pop()
        if each in seen or name not in here:
            continue
        seen.add(each)
        for requirement in map(Requirement, here[name].requires or []):
            ways = [{"extra": extra} for extra in ("", *wanted)]
            if requirement.marker is None or any(requirement.marker.evaluate(way) for way in ways):
                found.add(canonicalize_name(requirement.name))
                left.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def packages() -> list[Package]:
    """All that is locked and installed here, in the order of names."""
    here, versions = installed(), locked()
    library = needed_by([OWN], here, ())
    extras = needed_by([OWN], here, here[OWN].metadata.get_all("Provides-Extra", []))
    uses = {name: USES[0] if name in library else USES[1] if name in extras else USES[2] for name in versions}
    names = sorted(versions.keys() & here.keys())
    return [Package(name, here[name].version, licence_of(here[name]), uses[name]) for name in names]


def faults(found: Iterable[Package], page: str) -> list[str]:
    """What is wrong: a licence that may not be used, or a package that the page does not have so."""
    wrong: list[str] = []
    rows = set(page.splitlines())
    for each in found:
        allowed = ALLOWED_BESIDE if each.use == USES[2] else ALLOWED | {AS_IT_IS.get(each.name, "MIT")}
        if not is_allowed(each.licence, allowed):
            wrong.append(
                f"{each.name} {each.version} ({each.use}) is under {each.licence!r}, which is none that may be used: "
                "use another package, or add it to tools/licences.py with a reason"
            )
        elif row_of(each) not in rows:
            wrong.append(f"docs/licences.md does not say that {each.name} {each.version} is under {each.licence}")
    return wrong


def row_of(package: Package) -> str:
    """A package's row on the page."""
    return f"| {package.name} | {package.version} | {package.licence} | {package.use} |"


def page_of(found: Iterable[Package]) -> str:
    """The page."""
    head = HEAD.format(allowed=", ".join(sorted(ALLOWED)), beside=", ".join(sorted(ALLOWED_BESIDE - ALLOWED)))
    return head + "\n".join(map(row_of, sorted(found, key=lambda each: (USES.index(each.use), each.name)))) + "\n"


def main() -> None:
    """Write the page, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="compare only")
    found = packages()
    if parser.parse_args().check:
        wrong = faults(found, PAGE.read_text() if PAGE.exists() else "")
    else:
        PAGE.write_text(page_of(found))
        wrong = [each for each in faults(found, PAGE.read_text()) if not each.startswith("docs/")]
    for each in wrong:
        print(f"{each}; type: make licences" if each.startswith("docs/") else each)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
