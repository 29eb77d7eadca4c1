"""What stands in front of all routes where clients come in, as it is set in `[http]`."""
