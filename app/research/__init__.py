"""Scans → windows → models: where reading and preprocessing meet training."""
