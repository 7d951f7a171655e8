"""Statistics of paired comparisons: arrays in, arrays out. Imports numpy and scipy alone, so a notebook can use it."""
