"""A batch of events folded in memory, and what is remembered of the batches before."""
