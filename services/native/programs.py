"""Finding and installing programs."""

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend import ServerError
from settings import DATA, PROGRAMS, log_of

_POLICY = Path("/usr/sbin/policy-rc.d")
_PATTERNS = ("/usr/lib/postgresql/*/bin", "/usr/lib/rabbitmq/bin", "/usr/sbin")
_APT = ("apt-get", "-o", "DPkg::Lock::Timeout=120")
_one_at_a_time = threading.Lock()


def find(program: str) -> str | None:
    folders = (str(folder) for pattern in _PATTERNS for folder in sorted(Path("/").glob(pattern[1:]), reverse=True))
    # The folders come first: under /usr/sbin, rabbitmq-server is a wrapper that becomes another user
    return shutil.which(program, path=os.pathsep.join((*folders, os.environ.get("PATH", ""))))


def path(program: str) -> str:
    found = find(program)
    if found is None:
        raise FileNotFoundError(program)
    return found


def install(engine: str, programs: Mapping[str, str]) -> None:
    with _one_at_a_time:
        missing = sorted({package for program, package in programs.items() if find(program) is None})
        if not missing:
            return
        if os.geteuid() != 0:
            raise ServerError(engine, f"needs packages; run: sudo apt-get install {' '.join(missing)}")
        with _default_servers_kept_from_starting():
            run(engine, [*_APT, "update", "--quiet"])
            run(engine, [*_APT, "install", "--yes", "--quiet", "--no-install-recommends", *missing])


@contextmanager
def _default_servers_kept_from_starting() -> Iterator[None]:
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def run(engine: str, command: list[str], folder: Path = DATA, words: str = "", user: str | None = None) -> None:
    """Run a command to its end; what it prints goes to the engine's log."""
    with log_of(engine).open("ab") as log:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            input=words.encode(),
            stdout=log,
            stderr=log,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            **as_user(user),
        )
    if done.returncode:
        raise ServerError(engine, f"{Path(command[0]).name} failed")


def as_user(user: str | None) -> dict[str, Any]:
    """Arguments of subprocess, where we may and have to become somebody else."""
    return {"user": user, "group": user, "extra_groups": []} if user and os.geteuid() == 0 else {}


def give(user: str, target: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(target, user, user)


def versioned(name: str, sources: list[Path]) -> Path:
    """A place for something built from these files; another place when they change."""
    content = b"".join(source.read_bytes() for source in sources)
    return PROGRAMS / f"{name}-{hashlib.sha256(content).hexdigest()[:10]}"
