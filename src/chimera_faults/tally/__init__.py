"""The services that the rig ships: `tally` keeps accounts, `board` shows what it borrows of them."""
