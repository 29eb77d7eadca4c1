"""The upkeep of a service over the years: status, audits of shares and copies, retention, parked work."""
