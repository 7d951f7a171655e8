"""Conversations in the terminal, with one model or two side by side."""
