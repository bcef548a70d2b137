"""Files and archives: what lies in the input folder. Knows nothing of what is in a file."""
