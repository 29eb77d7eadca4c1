"""Alembic migrations of the tables that Chimera itself keeps in a relational store, and in relational views."""
