"""The `ctvae` command."""
