"""Where voxels lie in the patient: from slices to one regular grid; repairs, policy, resampling, windows."""
