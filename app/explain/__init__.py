"""What features follow and what they do not: a table of features and labels to one honest report."""
