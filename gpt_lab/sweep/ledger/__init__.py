"""The truth of a sweep: one sqlite file, and who works on what."""
