"""The trial on a real GPU."""
