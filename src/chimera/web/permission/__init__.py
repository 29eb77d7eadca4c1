"""Who may do what: rules as they were declared, and the one gate that asks them."""
