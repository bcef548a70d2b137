"""A model bundle as files: stored, checked, exported, compared with golden values, readable by MONAI's tools."""
