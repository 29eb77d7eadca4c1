"""Drift: shares and copies compared with what was emitted of them, and mended."""
