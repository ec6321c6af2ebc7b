"""The compiled core: ticks in, decisions and orders out; the same loop for live sessions and for tick replays."""
