"""What is computed: networks, their training, bundles and how they run. Works on arrays, knows no DICOM."""

import os

# Its official wheels send telemetry as soon as they are imported. A program that handles patients' scans must not.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
