"""A kit for tests of services: real heads on engines in memory, in one process, with time that is moved by hand."""

from chimera.testing.kit.folding import folded
from chimera.testing.kit.personal import personal
from chimera.testing.kit.running import RunningServices, running
from chimera.testing.kit.trying import Tried, given

__all__ = ["RunningServices", "Tried", "folded", "given", "personal", "running"]
