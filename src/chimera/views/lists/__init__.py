"""Lists of a view: kept with its documents, and read a page at a time."""
