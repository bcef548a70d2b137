"""Results as DICOM objects other than the SR, filed with the study: the card, a layer in the patient's geometry."""
