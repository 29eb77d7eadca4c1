"""Forgetting a person, and looking through all that is kept of her."""
