"""Timing in turns: one run of ours, one of each rival, and again, so that whatever else the machine does meets all."""

import gc
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TypeAlias

from bench.table import Figure, Rival

Contender: TypeAlias = Callable[[], float]
"""One run of a piece of work; it returns the seconds that an item of it took."""

Unit: TypeAlias = Callable[[float], float]
"""Turns seconds an item into the row's unit."""


class RivalError(Exception):
    """A rival cannot be measured; the message says why, without naming a place on this machine."""


def timed(function: Callable[[], object], items: int) -> Contender:
    """Return a contender that calls ``function``, which works through ``items`` items."""

    def run() -> float:
        gc.collect()
        began = perf_counter()
        function()
        return (perf_counter() - began) / items

    return run


def in_turns(
    ours: Contender, rivals: Mapping[str, Contender], unit: Unit, runs: int
) -> tuple[Figure, tuple[Rival, ...]]:
    """Measure all in turns, after a first run of each that does not count: it compiles, and warms the caches.

    Args:
        ours: what is measured in this process.
        rivals: by name; one that raises :class:`RivalError` is left out from then on, and its note says why.
        unit: of the figures.
        runs: of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ("", *rivals)}
    failed: dict[str, str] = {}
    for turn in range(runs + 1):
        for name, run in {"": ours, **rivals}.items():
            if name in failed:
                continue
            try:
                found = run()
            except RivalError as error:
                failed[name] = str(error)
                continue
            if turn:
                seconds[name].append(found)
    figures = {name: Figure.of([unit(value) for value in values]) for name, values in seconds.items() if values}
    return figures[""], tuple(
        Rival(name, None if name in failed else figures[name], failed.get(name, "")) for name in rivals
    )


def microseconds(seconds: float) -> float:
    """Return seconds as µs."""
    return seconds * 1e6


def nanoseconds(seconds: float) -> float:
    """Return seconds as ns."""
    return seconds * 1e9


def millions_a_second(seconds: float) -> float:
    """Return how many millions of items a second that is."""
    return 1e-6 / seconds
