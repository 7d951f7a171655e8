"""The dry run: what a sweep will cost, how long it takes, what it can detect."""
