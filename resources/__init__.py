"""Adapters: one for each outside thing that the domain talks to."""
