"""Result files other than the SR: JSON and its schema, long taps, NIfTI."""
