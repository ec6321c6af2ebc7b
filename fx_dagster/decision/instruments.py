"""What the step needs to know of instruments, as packed rows."""

from collections.abc import Sequence

import numpy as np

from fx_dagster.decision.rows import INSTRUMENT, Rows
from fx_dagster.decision.sizing import floor_steps, lot_grid
from fx_dagster.errors import SettingsError
from fx_dagster.market.instruments import Instrument


def instrument_table(instruments: Sequence[Instrument], leverage: float) -> Rows:
    """Return the instruments' numbers, ``[n]`` of :data:`fx_dagster.decision.rows.INSTRUMENT`.

    Margin is the stricter of the instrument's rate and 1 / leverage. Currencies are numbered in the order in which they
    are first named, metals among them.

    Raises:
        SettingsError: a number is impossible; the message names symbol and field.
    """
    if not leverage >= 1:
        raise SettingsError(f"leverage is {leverage}", mend="give a number of at least 1")
    table = np.zeros(len(instruments), dtype=INSTRUMENT)
    ids: dict[str, int] = {}
    for row, item in enumerate(instruments):
        grid = lot_grid(item.lot_step)
        _check_instrument(item, grid)
        table[row] = (
            item.point, item.contract_size, max(item.margin_rate, 1.0 / leverage), *grid,
            _ceil_steps(item.lot_min, grid), floor_steps(item.lot_max, *grid), 0.0,
            *(ids.setdefault(name, len(ids)) for name in (item.base_currency, item.profit_currency)),
        )  # fmt: skip
    return table


def _ceil_steps(lots: float, grid: tuple[int, int]) -> int:
    steps = floor_steps(lots, *grid)
    return steps if steps * grid[0] / grid[1] >= lots else steps + 1


def _check_instrument(item: Instrument, grid: tuple[int, int]) -> None:
    for name in ("point", "contract_size", "lot_step", "lot_min", "lot_max", "margin_rate"):
        value = getattr(item, name)
        if not (np.isfinite(value) and value > 0):
            raise SettingsError(f"instrument {item.symbol}: {name} is {value}", mend="give a number above 0")
    if floor_steps(item.lot_max, *grid) < _ceil_steps(item.lot_min, grid):
        raise SettingsError(f"instrument {item.symbol}: lot_max is below lot_min", mend="correct the volume limits")
