"""The folder that `evaluate.load` takes for the hit rate."""
