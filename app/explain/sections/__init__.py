"""One module per section of the report: it calls the statistics and says in words what they found."""
