"""Drift: shares, copies, lists and reservations compared with what they are made from, and mended."""
