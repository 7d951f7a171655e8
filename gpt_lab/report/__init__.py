"""Reports: what the runs of a study say, and how surely."""
