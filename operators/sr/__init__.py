"""The DICOM Structured Report: its codes, header and content tree, written and read back."""
