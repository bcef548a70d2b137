"""From checkpoints of other frameworks to bundles; nothing in a checkpoint is executed."""
