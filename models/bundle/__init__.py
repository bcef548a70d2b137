"""A model bundle as files: stored, checked, exported, held to its golden values, readable by MONAI's tools."""
