"""The server, measured."""
