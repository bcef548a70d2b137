"""The recipe and the list of scans of the shipped bundle; data, no code."""
