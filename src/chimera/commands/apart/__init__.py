"""Messages apart: how long a handler may take, how often it is tried, what a try by hand would do."""
