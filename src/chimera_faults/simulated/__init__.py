"""The simulator on Chimera's own fleet: three services, each kind of declaration among them, and the rig's mutants."""
