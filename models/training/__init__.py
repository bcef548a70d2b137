"""Training a VAE on windows: settings, augmentation, losses, the run and its checkpoints. Knows arrays, not DICOM."""
