"""Which run comes next."""
