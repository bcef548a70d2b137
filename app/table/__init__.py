"""Many results, as JSON, SR or from a DICOMweb server, to one table: Parquet or CSV. Reads results, never images."""
