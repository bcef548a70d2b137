"""Network architectures: the interface that all share, the registry by name, and one module per architecture."""
