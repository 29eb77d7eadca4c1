"""`python -m chimera.testing.faults`: strike a fleet, and print what was lost."""

from chimera.testing.faults.command import main

main()
