"""Real servers for the tests, as `make services` started them."""

import json
import os
from pathlib import Path

import pytest

FOUND = Path(__file__).parents[2] / ".services" / "urls.json"


def url_of(engine: str) -> str:
    """The engine's URL: from CHIMERA_TEST_<ENGINE>, else from `make services`. Skips, saying so, without it.

    `<engine>_tls` is its URL with TLS, `ca` the file with the certificate authority.
    """
    url = os.environ.get(f"CHIMERA_TEST_{engine.upper()}") or _found().get(engine)
    if url is None:
        pytest.skip(f"{engine} is not running; start it with: make services")
    return url


def _found() -> dict[str, str]:
    if not FOUND.exists():
        return {}
    found = json.loads(FOUND.read_text())
    return {**found["urls"], **{f"{name}_tls": url for name, url in found["tls"].items()}, "ca": found["ca"]}
