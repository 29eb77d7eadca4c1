"""`python -m chimera_faults`: strike a fleet, and print what was lost."""

from chimera_faults.command import main

main()
