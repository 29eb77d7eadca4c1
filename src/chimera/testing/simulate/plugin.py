"""The pytest plugin: the fixture `simulate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from chimera.testing.simulate import Fleet, Report


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`chimera.testing.simulate.simulate`; what breaks something is kept in `simulations`, in pytest's root."""

    def run(fleet: Fleet, **options: Any) -> Report:
        __tracebackhide__ = True
        from chimera.testing.simulate.sweep import PLANS, simulate

        return simulate(fleet, **{"keep": request.config.rootpath / PLANS, **options})

    return run
