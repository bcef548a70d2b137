"""Where voxels lie in the patient: slices to one regular grid, repairs, policy, resampling, windows."""
