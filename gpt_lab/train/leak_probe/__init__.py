"""Before training: whether any output depends on a later token."""
