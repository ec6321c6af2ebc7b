"""A model that says the same whatever it is asked: it answers in time and in range, and knows nothing."""

import math

import numpy as np

from fx_dagster.models.protocol import Float32
from fx_dagster.models.service import ModelAnswer

ROWS = 64
"""Different rows in a row, of which one model has said the very same, that make it stuck: trees repeat themselves in a
calm market for some bars, and networks never to the last bit."""


class StuckWatch:
    """Counts for each model about how many different rows in a row it has given the very same probability.

    Args:
        rows: how many make it stuck.
    """

    def __init__(self, *, rows: int = ROWS) -> None:
        self._rows = rows
        self._said: dict[str, float] = {}
        self._about: dict[str, set[bytes]] = {}

    def look(self, features: Float32, answer: ModelAnswer) -> None:
        """Look at an answer and at the rows ``[n, F]`` that it is about; absent probabilities say nothing."""
        if not len(features):
            return
        newest = answer.p_up[-1].tolist()
        for column, (name, last) in enumerate(zip(answer.models, newest, strict=True)):
            if math.isnan(last):
                continue
            if self._said.get(name) != last:  # nearly always: nothing more is looked at
                self._said[name], self._about[name] = last, set()
                continue
            p_up, about = answer.p_up[:, column], self._about[name]
            if not (np.isnan(p_up) | (p_up == last)).all():
                about.clear()
            for row in np.flatnonzero(p_up == last)[: self._rows - len(about)].tolist():
                about.add(features[row].tobytes())

    def forget(self) -> None:
        """Begin anew, as for another release."""
        self._said.clear()
        self._about.clear()

    @property
    def problem(self) -> str:
        """Which models are stuck; empty: none is."""
        stuck = [name for name, about in self._about.items() if len(about) >= self._rows]
        if not stuck:
            return ""
        words = ", ".join(f"{name} has said {self._said[name]:.4f}" for name in stuck)
        return f"stuck: {words} of {self._rows} different rows in a row"
