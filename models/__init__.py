"""What is computed: networks, their training, bundles and how they run. Knows arrays, not DICOM."""
