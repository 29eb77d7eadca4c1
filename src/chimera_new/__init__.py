"""New projects, and what is added to one: files as an author would write them, with tests."""
