"""NIfTI, NRRD and MetaImage files: headers and voxels of the research formats. No DICOM."""
