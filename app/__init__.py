"""How ctvae runs: the graph, the commands, the Python function."""
