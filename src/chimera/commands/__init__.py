"""Commands: accepted, executed once, remembered in the inbox, parked when they fail."""
