"""Tiers of evidence: how many seeds a verdict takes. Imports nothing, so that a plan can be checked at once."""

FEWEST = 3
"""Pairs below which nothing is claimed."""
CONFIRMS = 5
"""Fresh pairs from which on a claim stands alone."""
