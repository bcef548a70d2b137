"""Thousands of studies to one partitioned table: index, local engine, tables, report. Nothing of how a scan is read."""
