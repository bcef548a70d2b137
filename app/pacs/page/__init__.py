"""The listener over HTTP: status page, health and metrics; figures come from the queue, nothing is decided here."""
