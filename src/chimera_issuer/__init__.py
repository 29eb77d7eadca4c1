"""A small OpenID issuer for development and demonstrations: one logs in by a click, on this machine only."""
