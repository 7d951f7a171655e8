"""Text to tokens and back: the tokenizers, and whether one loses text."""
