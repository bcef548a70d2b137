"""From Keras encoders to bundles, without Keras: the file, its weights, its graph, its layers."""
