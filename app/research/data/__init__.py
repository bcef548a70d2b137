"""Scans for training and certifying: found, split by patient, and kept as windows on disk."""
