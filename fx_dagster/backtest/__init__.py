"""The decision step looped over history, with costs, and what its result is worth."""
