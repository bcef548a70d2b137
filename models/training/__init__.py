"""Training a VAE on windows: settings, augmentation, losses, the run and its checkpoints. Knows no DICOM."""
