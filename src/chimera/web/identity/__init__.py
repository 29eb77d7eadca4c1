"""How a service knows who asks, by the settings of the fleet: tokens of issuers, sessions, keys, certificates."""
