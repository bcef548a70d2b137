"""From a PACS, a watched folder or a DICOMweb server to results: listener, spool, queue, worker, senders."""
