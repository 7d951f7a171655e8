"""What a new GPU must show, tried step by step and written as one JSON: `doctor --cuda`."""
