"""Rows of the benchmark table: what is measured, beside whom, beside which limit; as text for a person and a page."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured quantity: the median of several runs, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Return the figure of several runs' values."""
        return cls(statistics.median(values), min(values), max(values))


class Rival(NamedTuple):
    """A peer on the same work; ``figure`` is None where it could not be measured, and ``note`` says why."""

    name: str
    figure: Figure | None = None
    note: str = ""


class Limit(NamedTuple):
    """What is to be reached: a value in the row's unit, or (``beside``) so many times as good as the first rival."""

    value: float
    beside: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: what is done, in a few words.
        ours: this project's figure, in ``unit``.
        unit: of all the row's figures.
        limit: what is to be reached; None: nothing.
        more_is_better: of the figures: a rate rather than a duration.
        rivals: measured in the same run; the limit of kind ``beside`` looks at the first.
        note: what a reader must know to judge the row.
        tried: where the time goes and what was tried; shown only where the limit is not reached.
    """

    work: str
    ours: Figure
    unit: str
    limit: Limit | None = None
    more_is_better: bool = False
    rivals: tuple[Rival, ...] = ()
    note: str = ""
    tried: str = ""

    def ratio(self, rival: Rival) -> float | None:
        """Return how many times as good this project is: above 1, it is ahead; None: the rival was not measured."""
        if rival.figure is None:
            return None
        ours, theirs = self.ours.median, rival.figure.median
        return ours / theirs if self.more_is_better else theirs / ours

    @property
    def reached(self) -> bool | None:
        """Whether the limit is kept; None: there is none, or the rival that it looks at was not measured."""
        if self.limit is None:
            return None
        if self.limit.beside:
            ratio = self.ratio(self.rivals[0]) if self.rivals else None
            return None if ratio is None else ratio >= self.limit.value
        if self.more_is_better:
            return self.ours.median >= self.limit.value
        return self.ours.median <= self.limit.value


COLUMNS = ("work", "ours", "peer", "its figure", "ratio", "limit", "reached")


def cells(row: Row) -> list[list[str]]:
    """Return a row's lines in the table, one a rival, by :data:`COLUMNS`."""
    rivals: list[Rival | None] = list(row.rivals) or [None]
    lines = [["", "", *_rival_cells(row, rival), "", ""] for rival in rivals]
    reached = {None: "–", True: "yes", False: "no"}[row.reached]
    lines[0][:2] = [row.work, f"{_spread(row.ours)} {row.unit}"]
    lines[0][-2:] = [_limit_cell(row), reached]
    return lines


def _rival_cells(row: Row, rival: Rival | None) -> list[str]:
    if rival is None:
        return ["–", "–", "–"]
    if rival.figure is None:
        return [rival.name, rival.note or "not measured", "–"]
    return [rival.name, _spread(rival.figure), f"{number(row.ratio(rival) or 0.0)} ×"]


def _limit_cell(row: Row) -> str:
    if row.limit is None:
        return "–"
    if row.limit.beside:
        return f"≥ {row.limit.value:g} × {row.rivals[0].name if row.rivals else 'the peer'}"
    return f"{'≥' if row.more_is_better else '≤'} {row.limit.value:g}"


def _spread(figure: Figure) -> str:
    if figure.low == figure.high:
        return number(figure.median)
    return f"{number(figure.median)} ({number(figure.low)}–{number(figure.high)})"


def number(value: float) -> str:
    """Return a number with three digits that count."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"
