"""Instruments, timeframes, sessions and server time, tick and bar schemas, tick → bar building."""
