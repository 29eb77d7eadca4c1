"""Contracts between services: what each promises and what it reads of others, derived, compared, and kept in a file."""
