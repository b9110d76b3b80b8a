"""The models: one registry, the weights, and a file for each model of our own."""
