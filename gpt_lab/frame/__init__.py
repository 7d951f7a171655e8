"""Runs to one table."""
