"""Real servers for the tests, as `make services` started them."""

import json
import os
from pathlib import Path

import pytest

URLS = Path(__file__).parents[2] / ".services" / "urls.json"


def url_of(engine: str) -> str:
    """The engine's URL: from CHIMERA_TEST_<ENGINE>, else from `make services`. Skips without it; fails in CI."""
    url = os.environ.get(f"CHIMERA_TEST_{engine.upper()}")
    if url is None and URLS.exists():
        url = json.loads(URLS.read_text()).get(engine)
    if url is None:
        reason = f"{engine} is not running; start it with: make services"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return url
