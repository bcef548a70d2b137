"""The listener over HTTP: status page, health, metrics and STOW-RS; figures come from the queue, nothing is decided."""
