"""PostgreSQL and MySQL: one store and view store, written once, and what differs."""
