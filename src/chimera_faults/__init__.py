"""A fault rig: breaks a fleet on purpose, and counts what was lost, doubled or out of order: docs/results/faults.md."""
