"""Training as a command: its recipe, its watching and plots, the bundle that it writes and its card."""
