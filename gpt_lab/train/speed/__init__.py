"""How fast training is, and what makes it faster on this machine."""
