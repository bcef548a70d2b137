"""From DICOM bytes to headers and pixels: scanning, functional groups, codecs, HU. Handles single files, not series."""
