"""Where runs are read from: the store, a W&B server, W&B's offline files."""
