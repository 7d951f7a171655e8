"""The console: how commands are called, lines and tables of any width, output that is lost, signals."""
