"""Borrowed data: read within a budget, in three modes, from the owner or a copy."""
