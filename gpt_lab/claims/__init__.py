"""Claims: a finished comparison as one folder that anybody can check, and the check."""
