"""What a series holds and whether it is wanted: CT or not, splitting into parts, phases, selection rules."""
