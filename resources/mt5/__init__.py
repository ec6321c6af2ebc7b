"""MetaTrader 5: the simulated terminal, its replay clock, and the feed that reads any terminal, simulated or real."""

from resources.mt5.clock import Clock, ReplayClock, SteppedClock, SystemClock
from resources.mt5.feed import Terminal, TerminalFeed, TickArrays
from resources.mt5.simulated import SimulatedTerminal

__all__ = [
    "Clock",
    "ReplayClock",
    "SimulatedTerminal",
    "SteppedClock",
    "SystemClock",
    "Terminal",
    "TerminalFeed",
    "TickArrays",
]
