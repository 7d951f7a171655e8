"""Validation: the loss on the validation split, in longer contexts too, and text that the model writes."""
