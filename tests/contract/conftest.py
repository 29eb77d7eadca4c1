"""Suites against real servers are collected where such servers are: after `make services`, or by CHIMERA_TEST_…."""

import os
from pathlib import Path

REAL = ("kafka", "memcached", "mongodb", "mysql", "postgresql", "rabbitmq", "redis")
started = (Path(__file__).parents[2] / ".services" / "urls.json").exists()

collect_ignore = [
    f"test_{engine}.py"
    for engine in REAL
    if not started and not any(name.startswith("CHIMERA_TEST_") for name in os.environ)
]
