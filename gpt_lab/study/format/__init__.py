"""The parts of a sweep file: each module reads and checks one of them."""
