"""Durations by stage, in histograms of bounded size.

Buckets grow by a twentieth (5 %) from 1 µs to 1,000 s, so that a quantile is right within 5 % whatever its size, and a
session of any length needs a few kilobytes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_GROWTH = math.log(1.05)
_LOWEST_MS = 1e-3
_BUCKETS = 1 + math.ceil(math.log(1e6 / _LOWEST_MS) / _GROWTH)

STAGES = ("tick", "total", "features", "model", "model_bare", "decide", "journal")
"""``tick``: tick read → decided, every tick. ``total``: the same where the models were asked. ``model``: that call.
``model_bare``: the same call alone, measured between decisions. ``journal``: intent posted → committed."""


BOUNDS_MS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1_000.0)
"""Of the coarse buckets that are handed to others."""


class Histogram:
    """Counts of durations."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, dtype=np.int64)
        self.count = 0
        self.sum_ms = 0.0
        self.highest_ms = 0.0

    def add(self, milliseconds: float, times: int = 1) -> None:
        """Count a duration, as often as it occurred."""
        place = 0
        if milliseconds > _LOWEST_MS:
            place = min(_BUCKETS - 1, 1 + int(math.log(milliseconds / _LOWEST_MS) / _GROWTH))
        self._counts[place] += times
        self.count += times
        self.sum_ms += milliseconds * times
        self.highest_ms = max(self.highest_ms, milliseconds)

    def quantile_ms(self, share: float) -> float | None:
        """Return the duration below which ``share`` of them lie; None without any."""
        if self.count == 0:
            return None
        place = int(np.searchsorted(np.cumsum(self._counts), math.ceil(share * self.count)))
        middle = _LOWEST_MS * math.exp((place - 0.5) * _GROWTH) if place else _LOWEST_MS
        return min(middle, self.highest_ms)

    def buckets(self) -> list[list[float]]:
        """Return, for each of :data:`BOUNDS_MS`, it and how many durations lie below it, right within 5 %."""
        places = [1 + int(math.log(bound / _LOWEST_MS) / _GROWTH) for bound in BOUNDS_MS]
        below = np.cumsum(self._counts)
        return [[bound, int(below[place - 1])] for bound, place in zip(BOUNDS_MS, places, strict=True)]

    def summary(self) -> dict[str, Any]:
        """Return count, sum, quantiles and buckets in milliseconds."""
        return {
            "n": self.count,
            "p50_ms": _rounded(self.quantile_ms(0.5)),
            "p90_ms": _rounded(self.quantile_ms(0.9)),
            "p99_ms": _rounded(self.quantile_ms(0.99)),
            "max_ms": _rounded(self.highest_ms) if self.count else None,
            **({"sum_ms": round(self.sum_ms, 4), "buckets": self.buckets()} if self.count else {}),
        }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 4)


class StageTimes:
    """One histogram a stage."""

    def __init__(self) -> None:
        self.stages: Mapping[str, Histogram] = {name: Histogram() for name in STAGES}

    def add(self, stage: str, milliseconds: float, times: int = 1) -> None:
        """Count a duration of a stage, as often as it occurred."""
        self.stages[stage].add(milliseconds, times)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return each stage's summary."""
        return {name: histogram.summary() for name, histogram in self.stages.items()}
