"""What `probe=light` sees of a model in training, without touching it."""
