"""The statistics of `ctvae explain`: arrays in, frozen results out; no files and no pictures."""
