"""Forex and gold trading: the domain, and the entry points that assemble it."""
