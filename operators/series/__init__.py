"""What a series holds and whether to encode it: CT or not, splitting into parts, phases, selection rules."""
