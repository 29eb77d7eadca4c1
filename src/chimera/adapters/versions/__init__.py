"""Chimera's own tables on the relational engines, version by version: what a release has shipped stays as it is."""
