"""Thousands of studies to one partitioned table: index, two engines, tables, report. Does not read scans itself."""
