"""What the report is made of and how it is written: sections with tables and figures, one HTML page, CSV and JSON."""
