"""The structure of a source tree, read from its text: nothing in it is imported or run."""
