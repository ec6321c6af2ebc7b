"""MetaTrader 5: the simulated terminal, its replay clock, the feed that reads any terminal, the bridge to one.

Names are loaded when they are first asked for: the bridge runs beside the terminal with few packages, and must not load
the simulated terminal's.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    **dict.fromkeys(("Clock", "ReplayClock", "SteppedClock", "SystemClock"), "clock"),
    **dict.fromkeys(("Terminal", "TerminalFeed", "TickArrays"), "feed"),
    "SimulatedTerminal": "simulated",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
