"""Durations by stage, in histograms of bounded size.

Buckets grow by a twentieth (5 %) from 1 µs to 1,000 s, so that a quantile is right within 5 % whatever its size, and a
session of any length needs a few kilobytes.
"""

import math
from collections.abc import Mapping

import numpy as np

_GROWTH = math.log(1.05)
_LOWEST_MS = 1e-3
_BUCKETS = 1 + math.ceil(math.log(1e6 / _LOWEST_MS) / _GROWTH)

STAGES = ("tick", "total", "features", "model", "model_bare", "decide", "journal")
"""``tick``: tick read → decided, every tick. ``total``: the same where the models were asked. ``model``: that call.
``model_bare``: the same call alone, measured between decisions. ``journal``: intent posted → committed."""


class Histogram:
    """Counts of durations."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, dtype=np.int64)
        self.count = 0
        self.highest_ms = 0.0

    def add(self, milliseconds: float, times: int = 1) -> None:
        """Count a duration, as often as it occurred."""
        place = 0
        if milliseconds > _LOWEST_MS:
            place = min(_BUCKETS - 1, 1 + int(math.log(milliseconds / _LOWEST_MS) / _GROWTH))
        self._counts[place] += times
        self.count += times
        self.highest_ms = max(self.highest_ms, milliseconds)

    def quantile_ms(self, share: float) -> float | None:
        """Return the duration below which ``share`` of them lie; None without any."""
        if self.count == 0:
            return None
        place = int(np.searchsorted(np.cumsum(self._counts), math.ceil(share * self.count)))
        middle = _LOWEST_MS * math.exp((place - 0.5) * _GROWTH) if place else _LOWEST_MS
        return min(middle, self.highest_ms)

    def summary(self) -> dict[str, float | int | None]:
        """Return count and quantiles in milliseconds."""
        return {
            "n": self.count,
            "p50_ms": _rounded(self.quantile_ms(0.5)),
            "p90_ms": _rounded(self.quantile_ms(0.9)),
            "p99_ms": _rounded(self.quantile_ms(0.99)),
            "max_ms": _rounded(self.highest_ms) if self.count else None,
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

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Return each stage's summary."""
        return {name: histogram.summary() for name, histogram in self.stages.items()}
