"""What every test of the web is asked of, served once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web.served import Served, serve, serve_gateway


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The six services."""
    with serve(tmp_path_factory.mktemp("state")) as site:
        yield site


@pytest.fixture(scope="session")
def gateway(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway before the services."""
    with serve_gateway(served, tmp_path_factory.mktemp("nothing")) as site:
        yield site
