"""The read head's HTTP side."""
