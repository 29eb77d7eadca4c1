"""What is simulated: a fleet of services, and the plan of what happens to it."""
