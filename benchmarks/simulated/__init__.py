"""Simulated studies whose answer is known, and what the lab makes of them."""
