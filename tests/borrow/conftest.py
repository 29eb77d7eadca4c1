"""The loop that a module's tests run on, where it names one: `LOOP = LeapingLoop`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Function
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"loop": getattr(item.module, "LOOP", asyncio.new_event_loop)}
