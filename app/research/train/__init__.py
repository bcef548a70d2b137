"""Training as a command: its recipe, its monitoring and plots, the bundle that it writes and its card."""
