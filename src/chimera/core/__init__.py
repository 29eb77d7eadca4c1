"""The core: a service with its engines as data, names and tables of what is kept, time, small asyncio pieces."""
