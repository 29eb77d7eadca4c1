"""The shares of an owner: its documents by key, and their changes in its journal."""
