"""What is compared: the sweep file read, its arms, its cells."""
