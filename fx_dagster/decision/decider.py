"""The decision step's Python face: checks shapes, holds configuration, instruments and state."""

from collections.abc import Sequence

import numpy as np

from fx_dagster.decision.arrays import (
    VOTES,
    AccountState,
    DecisionState,
    Decisions,
    InstrumentTable,
    PositionTable,
    StepInputs,
    empty_decisions,
    empty_inputs,
    empty_positions,
)
from fx_dagster.decision.config import StepConfig, checked
from fx_dagster.decision.sizing import floor_steps, lot_grid
from fx_dagster.decision.state import copy_state, new_state, restore, snapshot
from fx_dagster.decision.step import decide, record_trade
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.market.instruments import Instrument


def instrument_table(instruments: Sequence[Instrument], leverage: float) -> InstrumentTable:
    """Return the instruments' numbers; margin is the stricter of the instrument's rate and 1 / leverage.

    Raises:
        SettingsError: a number is impossible; the message names symbol and field.
    """
    if not leverage >= 1:
        raise SettingsError(f"leverage is {leverage}", mend="give a number of at least 1")
    grids = [lot_grid(item.lot_step) for item in instruments]
    for item, grid in zip(instruments, grids, strict=True):
        _check_instrument(item, grid)

    def column(values: Sequence[float], dtype: type) -> np.ndarray:
        return np.array(values, dtype=dtype)

    steps = [
        (_ceil_steps(item.lot_min, grid), floor_steps(item.lot_max, *grid))
        for item, grid in zip(instruments, grids, strict=True)
    ]
    return InstrumentTable(
        point=column([item.point for item in instruments], np.float64),
        contract_size=column([item.contract_size for item in instruments], np.float64),
        margin_rate=column([max(item.margin_rate, 1.0 / leverage) for item in instruments], np.float64),
        lot_numerator=column([grid[0] for grid in grids], np.int64),
        lot_denominator=column([grid[1] for grid in grids], np.int64),
        lot_min_steps=column([least for least, _ in steps], np.int64),
        lot_max_steps=column([most for _, most in steps], np.int64),
        stops_level_points=column([0.0] * len(instruments), np.float64),
    )


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


class DecisionStep:
    """Decides for a fixed tuple of symbols. Not thread-safe; one owner.

    Attributes:
        symbols: canonical symbols, in the order of the rows.
        config: the step's numbers.
        table: the instruments' numbers.
        state: what it remembers; see :meth:`snapshot`.
    """

    def __init__(self, config: StepConfig, instruments: Sequence[Instrument], *, leverage: float) -> None:
        self.config = checked(config)
        self.symbols = tuple(item.symbol for item in instruments)
        if len(set(self.symbols)) != len(self.symbols):
            raise SettingsError(f"a symbol is there twice: {self.symbols}", mend="name each symbol once")
        self.table = instrument_table(instruments, leverage)
        self.state = new_state(len(self.symbols), config.horizon_bars)
        self._out = empty_decisions(len(self.symbols))

    @property
    def model_columns(self) -> int:
        """Number of columns ``m`` that ``p_up`` has."""
        return self.config.simple_models + self.config.deep_models + int(self.config.meta)

    def empty_inputs(self) -> StepInputs:
        """Return inputs with everything absent; fill them in place, scalars with ``_replace``."""
        return empty_inputs(len(self.symbols), self.model_columns)

    def empty_positions(self) -> PositionTable:
        """Return the positions of a flat account; fill them in place."""
        return empty_positions(len(self.symbols))

    def decide(self, inputs: StepInputs, account: AccountState, positions: PositionTable) -> Decisions:
        """Decide for every active row.

        The arrays that are returned are written again by the next call.

        Raises:
            DataError: an array has another shape or type than :mod:`fx_dagster.decision.arrays` says.
        """
        self._check(inputs, positions)
        decide(self.config, self.table, inputs, account, positions, self.state, self._out)
        return self._out

    def record_trade(self, result: float, risk_money: float) -> None:
        """Learn from a closed trade, net of costs (account's currency); before the next decision."""
        record_trade(self.state, float(result), float(risk_money))

    def resume(self, equity: float) -> None:
        """End a halt, by a person's order: drawdown is measured from ``equity`` on, and the breakers are reset."""
        if not (np.isfinite(equity) and equity > 0):
            raise DataError(f"equity is {equity}", mend="resume with the account's equity, above 0")
        state = self.state
        state.peak_equity[0] = equity
        state.day_start_equity[0] = equity
        for array in (state.stage, state.stage_since, state.released_drawdown, state.day_loss_until,
                      state.streak_until, state.loss_streak, state.breaker_until):  # fmt: skip
            array[:] = 0

    def warm_up(self) -> None:
        """Compile (or load) the step without touching the state, before the first tick waits for it."""
        state, out = copy_state(self.state), empty_decisions(len(self.symbols))
        account = AccountState(balance=1.0, equity=1.0, margin_used=0.0, healthy=True, command=0)
        decide(self.config, self.table, self.empty_inputs(), account, self.empty_positions(), state, out)
        record_trade(state, 0.0, 0.0)

    def snapshot(self) -> bytes:
        """Return all that is remembered."""
        return snapshot(self.state, self.symbols)

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot; symbols that it does not know start anew.

        Raises:
            DataError: the snapshot is not one, or of another version or horizon.
        """
        self.state: DecisionState = restore(data, self.symbols, self.config.horizon_bars)

    def _check(self, inputs: StepInputs, positions: PositionTable) -> None:
        n = len(self.symbols)
        shapes = {"votes": (n, VOTES), "p_up": (n, self.model_columns)}
        for table in (inputs, positions):
            for name, array in zip(table._fields, table, strict=True):
                if name in {"time", "trading_day"}:
                    continue
                if not isinstance(array, np.ndarray) or array.shape != shapes.get(name, (n,)):
                    raise DataError(
                        f"decision input {name} has shape {np.shape(array)}", mend=f"it is {shapes.get(name, (n,))}"
                    )
                if array.dtype != _DTYPES.get(name, np.float64):
                    raise DataError(
                        f"decision input {name} is {array.dtype}", mend=f"it is {np.dtype(_DTYPES.get(name, np.float64))}"
                    )


_DTYPES: dict[str, type] = {
    "active": np.bool_, "tradable": np.bool_, "fresh": np.bool_, "market_open": np.bool_, "pending": np.bool_, "bar_time": np.int64,
    "regime": np.int8,
}  # fmt: skip
