"""The thirteen classical indicators: catalogue, batch computation and votes."""
