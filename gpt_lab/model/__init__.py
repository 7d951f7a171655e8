"""GPT assembled from parts."""
