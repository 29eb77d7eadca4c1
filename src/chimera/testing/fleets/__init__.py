"""A fleet as it runs in a simulation, what is done to it, and what is promised of it."""
