"""From a table of features and labels to one report: what the features are related to, and what not."""
