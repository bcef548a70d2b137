"""What is measured on the voxels themselves, without a network: quantities, texture, reliability."""
