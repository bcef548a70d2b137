"""A volume as a CT series, classic or Enhanced, and perturbations of a scan."""
