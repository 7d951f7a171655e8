"""Trained models behind an HTTP interface: OpenAI's, and one page for two of them side by side."""
