"""Inputs by the million for whatever reads what strangers send: nothing may fail, hang or grow."""
