"""How far two runs of one recipe are apart by chance alone: null pairs and what they tell."""
