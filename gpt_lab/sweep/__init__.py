"""Sweeps: a W&B sweep file becomes cells, cells become runs, each exactly once."""
