"""A fault rig: breaks a running fleet on purpose, and counts what was lost, doubled or out of order: docs/faults.md."""
