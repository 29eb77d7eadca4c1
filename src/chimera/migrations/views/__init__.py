"""The tables of documents and checkpoints, version by version."""
