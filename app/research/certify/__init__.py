"""Certifying a bundle on scans that it was not trained on: measured, computed, written into the bundle."""
