from __future__ import annotations

from pathlib import Path

import pytest

from chimera import SettingsError
from chimera.run.settings import read_settings

FILE = """
last_known = "redis://cache"
[services.gig-page]
app = "gigs:gigs"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "chimera.toml"
    path.write_text(FILE)
    return path


def test_variables_override_what_the_file_says_and_add_what_it_leaves_out(path: Path) -> None:
    settings = read_settings(
        path,
        {
            "CHIMERA_LAST_KNOWN": "memcached://cache",
            "CHIMERA_SERVICES__GIG_PAGE__BORROWS__TOP_CLIENTS": "async",
            "CHIMERA_SERVICES__GIG_PAGE__LAST_KNOWN": "",
            "CHIMERA_SERVICES__TOP_CLIENTS__APP": "clients:clients",
            "CHIMERA_SERVICES__TOP_CLIENTS__URL": "http://clients:8080",
        },
    )
    assert settings.last_known == "memcached://cache"
    assert settings.services["gig-page"].borrows == {"top-clients": "async"}
    assert settings.base("top-clients", fleet=True) == "http://clients:8080"


def test_a_variable_that_goes_through_a_plain_value_says_so(path: Path) -> None:
    with pytest.raises(SettingsError, match="CHIMERA_LAST_KNOWN__TTL: last_known is not a table"):
        read_settings(path, {"CHIMERA_LAST_KNOWN__TTL": "5"})
