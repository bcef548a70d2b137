"""What is computed: networks, their training, bundles and how they run. Knows arrays, not DICOM."""

import os

# Its official wheels report to their maker, from the import on. A program that sees patients' scans reports to nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
