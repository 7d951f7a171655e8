"""Matrix products of 8 bits, and weights that are kept in 16 or 8 bits between steps."""
