"""The container image: what goes into it, how it is built, starts and is checked. Nothing here encodes."""
