"""What is done to a series: one module per stage, each a pure function."""

__version__ = "0.1.0"
