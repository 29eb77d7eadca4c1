"""What is made with keys: seals of what is sent, by the fleet's; personal values, by one key for each person."""
