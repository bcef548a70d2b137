"""Checks of a packed image: what its archive shows, and what running it without a daemon shows. Builds nothing."""
