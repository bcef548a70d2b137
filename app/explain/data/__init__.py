"""What is asked of what: the table of features, labels joined to it, the rows and images that are tested."""
