"""What is done to a series, one stage a module, each a pure function."""
