"""Features, labels, splits and their checks: what the models learn from."""
