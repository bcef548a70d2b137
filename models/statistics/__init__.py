"""What features are worth, as statistics on arrays: repeatability, identity, probes, disentanglement."""
