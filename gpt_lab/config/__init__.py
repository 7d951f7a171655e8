"""From conf/ and a command line to a checked config; what can be chosen; what a wrong name means. Imports no torch."""
