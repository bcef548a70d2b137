"""Result files other than the SR: JSON and its schema, the card, FHIR, long taps, NIfTI."""
