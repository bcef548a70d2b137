"""DICOM bytes to headers and pixels: scanning, functional groups, codecs, HU. Knows one file at a time, no series."""
