"""Servers that this project starts by itself, on loopback only, and takes with it when it goes."""
