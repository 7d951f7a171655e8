"""From a table of runs to verdicts."""
