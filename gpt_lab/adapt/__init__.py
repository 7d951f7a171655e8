"""Adaptation of a trained model: low-rank adapters, weights in few bits."""
