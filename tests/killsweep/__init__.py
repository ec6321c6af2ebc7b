"""A live engine is killed at every point of an order's way, over real servers: nothing is sent twice or lost."""
