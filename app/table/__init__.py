"""From many results, as JSON, SR or on a DICOMweb server, to one table: Parquet or CSV. Reads results, never images."""
