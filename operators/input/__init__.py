"""Files and archives: what the input folder holds, whatever is in the files."""
