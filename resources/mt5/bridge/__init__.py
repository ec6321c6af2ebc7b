"""The bridge's order gate: what stands between an intent and a MetaTrader 5 terminal that cannot fence."""
