"""What is done to a series, one stage a module, each a pure function."""

__version__ = "0.1.0"
