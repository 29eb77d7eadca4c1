"""Real servers for the tests, as `make services` started them."""

import asyncio
import itertools
import json
import os
import socket
import sys
from asyncio.subprocess import DEVNULL
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
STARTED = ROOT / ".services" / "urls.json"

IN_TURN = pytest.mark.xdist_group("servers")
"""For tests of Kafka, RabbitMQ or Redis: some of them stop or kill a server, so one process runs them all, in turn."""


def url_of(engine: str) -> str:
    """The engine's URL: from CHIMERA_TEST_<ENGINE>, else from `make services`.

    `<engine>_tls` is its URL with TLS, `ca` the file with the certificate authority. See `do_without` for what
    happens where there is none, or where nobody listens.
    """
    url = os.environ.get(f"CHIMERA_TEST_{engine.upper()}") or _started(engine)
    if url is None:
        do_without(f"{engine} was not started; run: make services")
    if trouble := _trouble(url):
        do_without(f"{engine} does not answer ({trouble}); run: make services")
    return url


async def run_services(verb: str, engine: str) -> None:
    """Have `services/run.py` start, stop, restart or kill an engine's server."""
    if url_of(engine) != _started(engine):
        do_without(f"{engine} was not started by services/run.py, which has to {verb} it here")
    command = (sys.executable, str(ROOT / "services" / "run.py"), verb, engine)
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL)
    assert await process.wait() == 0


def unused(word: str) -> str:
    """A name for a schema or a database that nobody has, whatever runs beside this."""
    return f"{word}_{os.getpid()}_{next(_numbers)}"


_numbers = itertools.count(1)


def need_packages(engine: str) -> None:
    """What the package's extra of this name asks for has to be installed; see `do_without`."""
    wanted = [Requirement(text) for text in metadata.requires("chimera-kit") or ()]
    optional = [each for each in wanted if each.marker and each.marker.evaluate({"extra": engine})]
    if missing := [each.name for each in optional if not _is_installed(each.name)]:
        do_without(f"{', '.join(missing)} is not installed; run: pip install 'chimera-kit[{engine}]'")


def do_without(reason: str) -> NoReturn:
    """Skip what needs an engine that can't be had; with CI=true, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _started(engine: str) -> str | None:
    known = json.loads(STARTED.read_text()) if STARTED.exists() else {"urls": {}, "tls": {}}
    urls = known["urls"] | {f"{name}_tls": url for name, url in known["tls"].items()}
    return known.get("ca") if engine == "ca" else urls.get(engine)


@cache
def _trouble(url: str) -> str:
    """Why nobody is reached there. Asked once, because tests stop servers and start them again."""
    place = urlsplit(url.partition(",")[0])
    if place.hostname is None or place.port is None:
        return ""
    try:
        socket.create_connection((place.hostname, place.port), timeout=30).close()
    except OSError as error:
        return str(error)
    return ""


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True
