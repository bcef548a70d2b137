"""Results as DICOM objects other than the SR, filed with the study: the card as an image or PDF, parametric maps."""
