"""`chimera` without the chain of events, to see what that costs: `python -m benchmarks.costs.unchained ARGUMENTS`."""

from __future__ import annotations

from unittest.mock import patch

from chimera.cli.main import main
from chimera.core.keys.seals import Seal

if __name__ == "__main__":
    with patch.object(Seal, "after", lambda *_: ""):
        main()
