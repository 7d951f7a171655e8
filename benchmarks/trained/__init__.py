"""Trained models, measured: generation, the server."""
