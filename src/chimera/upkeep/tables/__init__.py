"""Tables that `project` writes: built anew beside those that serve, compared, and switched in one transaction."""
