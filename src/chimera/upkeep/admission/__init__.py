"""What is looked at before a service starts: whose its stores are, and what its names are."""
