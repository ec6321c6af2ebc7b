"""The decision step's Python face: checks shapes, holds configuration, instruments and state."""

from collections.abc import Sequence

import numpy as np

from fx_dagster.decision.arrays import (
    VOTES,
    AccountState,
    Decisions,
    Float64,
    PositionTable,
    StepInputs,
    empty_inputs,
    empty_positions,
)
from fx_dagster.decision.config import StepConfig, checked
from fx_dagster.decision.rows import (
    ACCOUNT,
    DECISION,
    INSTRUMENT,
    POSITION,
    Rows,
    config_row,
    decision_views,
    input_dtype,
    pack,
    pack_account,
)
from fx_dagster.decision.sizing import floor_steps, lot_grid
from fx_dagster.decision.state import DecisionState, copy_state, new_state, restore, snapshot
from fx_dagster.decision.step import decide, end_halt, record_trade
from fx_dagster.errors import DataError, SettingsError
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
        n = len(self.symbols)
        self.state: DecisionState = new_state(n, config.horizon_bars)
        self._config = config_row(self.config)
        self._inputs = np.zeros(n, dtype=input_dtype(self.model_columns))
        self._positions = np.zeros(n, dtype=POSITION)
        self._account = np.zeros(1, dtype=ACCOUNT)
        self._out = np.zeros(n, dtype=DECISION)
        self._no_returns = np.zeros((0, n))

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

    def decide(
        self, inputs: StepInputs, account: AccountState, positions: PositionTable, returns: Float64 | None = None
    ) -> Decisions:
        """Decide for every active row.

        The arrays that are returned are written again by the next call.

        Args:
            inputs: of all symbols.
            account: as it is now.
            positions: of all symbols.
            returns: float64 ``[w, n]``, C-contiguous: newest log returns of the base bars, rows in any order, NaN where
                unknown; None: none are known.

        Raises:
            DataError: an array has another shape or type than :mod:`fx_dagster.decision.arrays` says.
        """
        self._check(inputs, positions)
        returns = self._checked_returns(returns)
        pack(inputs, self._inputs, _INPUTS)
        # The caller's arrays may have changed in any place: what was derived from the last ones is not used again.
        self._inputs["version"] += 1
        pack(positions, self._positions, PositionTable._fields)
        pack_account(inputs, account, self._account)
        self._run(self.state, self._out, returns)
        return decision_views(self._out)

    def _run(self, state: DecisionState, out: Rows, returns: Float64) -> None:
        decide(
            self._config, self.table, self._inputs, self._account, self._positions, state.rows, state.memory, out,
            int(np.count_nonzero(self._positions["lots"])), returns,
        )  # fmt: skip

    def _checked_returns(self, returns: Float64 | None) -> Float64:
        if returns is None:
            return self._no_returns
        n = len(self.symbols)
        if returns.ndim != 2 or returns.shape[1] != n or returns.dtype != np.float64 or not returns.flags.c_contiguous:
            raise DataError(
                f"returns are {returns.dtype} {returns.shape}", mend=f"pass a C-contiguous array of float64 (w, {n})"
            )
        return returns

    def record_trade(self, result: float, risk_money: float) -> None:
        """Learn from a closed trade, net of costs (account's currency); before the next decision."""
        record_trade(self.state.memory[0], float(result), float(risk_money))

    def resume(self, equity: float) -> None:
        """End a halt, by a person's order: drawdown is measured from ``equity`` on, and the breakers are reset."""
        if not (np.isfinite(equity) and equity > 0):
            raise DataError(f"equity is {equity}", mend="resume with the account's equity, above 0")
        end_halt(self.state.memory[0], self.state.rows, float(equity))

    def warm_up(self) -> None:
        """Compile (or load) the step without touching the state, before the first tick waits for it."""
        state = copy_state(self.state)
        self._run(state, np.zeros(len(self.symbols), dtype=DECISION), self._no_returns)
        record_trade(state.memory[0], 0.0, 0.0)
        end_halt(state.memory[0], state.rows, 1.0)

    def snapshot(self) -> bytes:
        """Return all that is remembered."""
        return snapshot(self.state, self.symbols)

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot; symbols that it does not know start anew.

        Raises:
            DataError: the snapshot is not one, or of another version or horizon.
        """
        self.state = restore(data, self.symbols, self.config.horizon_bars)

    def _check(self, inputs: StepInputs, positions: PositionTable) -> None:
        n = len(self.symbols)
        shapes = {"votes": (n, VOTES), "p_up": (n, self.model_columns)}
        columns = [(name, getattr(inputs, name)) for name in _INPUTS]
        columns += [(name, getattr(positions, name)) for name in PositionTable._fields]
        for name, column in columns:
            shape, kind = shapes.get(name, (n,)), np.dtype(_DTYPES.get(name, np.float64))
            if not isinstance(column, np.ndarray) or column.shape != shape or column.dtype != kind:
                found = f"{column.dtype} {column.shape}" if isinstance(column, np.ndarray) else type(column).__name__
                raise DataError(f"decision input {name} is {found}", mend=f"it is an array of {kind} {shape}")


_INPUTS = tuple(name for name in StepInputs._fields if name not in {"time", "trading_day"})
_DTYPES: dict[str, type] = {
    "active": np.bool_, "tradable": np.bool_, "fresh": np.bool_, "market_open": np.bool_, "pending": np.bool_,
    "bar_time": np.int64, "regime": np.int8,
}  # fmt: skip
