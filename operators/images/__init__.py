"""NIfTI, NRRD and MetaImage files: headers and voxels of the research formats. Knows no DICOM."""
