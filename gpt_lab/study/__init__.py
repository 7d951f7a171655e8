"""What is compared: the sweep, its arms, its cells; format/ reads the parts of its file."""
