"""`chimera compare`: the three modes of a declared borrow, and a monolith, under one load on this machine."""
