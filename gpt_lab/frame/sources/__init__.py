"""Where runs are read from: the store, or a W&B server."""
