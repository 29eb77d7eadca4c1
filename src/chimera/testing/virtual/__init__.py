"""Virtual time: an event loop for many simulated processes, their clocks, and a fence around them."""
