"""Orders: their life cycle, the broker and journal protocols, fill arithmetic, and the paper broker."""
