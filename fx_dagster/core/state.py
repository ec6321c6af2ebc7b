"""The arrays of the core, made once for a set of symbols and handed to the compiled loop as one bundle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fx_dagster.core.hours import hours_of
from fx_dagster.core.rows import CONTROL, NEVER, WATCH, Float64, Hours, Int64, Log, Predictions, new_log
from fx_dagster.decision.answers import ANSWER_EXTRAS, forget_answer
from fx_dagster.decision.config import StepConfig, checked
from fx_dagster.decision.rows import ACCOUNT, DECISION, Rows, config_row, input_dtype
from fx_dagster.decision.state import new_state
from fx_dagster.errors import SettingsError
from fx_dagster.execution.ledger import Ledger
from fx_dagster.features.catalogue import FeatureCatalogue
from fx_dagster.features.cross import leading
from fx_dagster.features.cross_incremental import Cross, new_cross
from fx_dagster.features.incremental import channel_places, new_features, new_layout
from fx_dagster.features.windows_incremental import new_windows
from fx_dagster.indicators.arrays import CONTEXT_TIMEFRAMES
from fx_dagster.indicators.incremental import new_states
from fx_dagster.market.incremental import new_closed, new_forming, new_gates
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import SECOND_NS, Timeframe

LOG_ROWS = 1_024
"""Decisions that may wait to be written down, beside one a symbol."""


@dataclass(frozen=True)
class CoreSpec:
    """What a core is made for.

    Attributes:
        instruments: one a symbol; ticks name symbols by their place here.
        catalogue: features, and with them the base timeframe.
        config: numbers of the decision step.
        start: market time (ns UTC) at which it begins.
        stale_s: silence in an open market after which a symbol is halted.
        spike_z: jump over the usual move from which a tick is held until another confirms it.
        move_atr: distance in ATR from the last question at which the models are asked again.
        refresh_s: least market time between two questions about a symbol.
        history_bars: bars of each timeframe that it is warmed up on.
        asks: whether decisions wait for models.
        logs: whether decisions are kept for a record.
        places: whether orders are placed as soon as they are decided, as in a replay.
    """

    instruments: Sequence[Instrument]
    catalogue: FeatureCatalogue
    config: StepConfig
    start: int
    stale_s: float = 120.0
    spike_z: float = 25.0
    move_atr: float = 1.0
    refresh_s: float = 1.0
    history_bars: int = 1_500
    asks: bool = True
    logs: bool = True
    places: bool = False


class Core(NamedTuple):
    """``n`` symbols, ``T`` timeframes from the base up. All of it is changed in place."""

    control: Rows
    """``[1]`` of :data:`fx_dagster.core.rows.CONTROL`."""
    watch: Rows
    """``[n]`` of :data:`fx_dagster.core.rows.WATCH`."""
    hours: Hours
    gate: Rows
    """``[n]``: the tick gate's."""
    forming: Rows
    """``[n, T]``: bars that form."""
    closed: Rows
    """``[2 T]``: scratch for bars that close."""
    indicators: Rows
    """``[n, T]``."""
    contexts: Int64
    """``[T, k]`` slots of each timeframe's context timeframes; -1 where there are fewer."""
    features: Rows
    """``[n]``."""
    layout: Rows
    """``[1]``: which features, where."""
    windows: Rows
    """``[n]``: the last bars, for sequences and charts."""
    channels: Int64
    """``[C]``: places of the sequences' channels in a symbol's features."""
    scratch_indicators: Rows
    """``[1]``: a copy that the forming bar is pushed into."""
    scratch_features: Rows
    """``[1]``."""
    cross: Cross
    config: Rows
    table: Rows
    """``[n]`` of :data:`fx_dagster.decision.rows.INSTRUMENT`."""
    inputs: Rows
    account: Rows
    states: Rows
    memory: Rows
    out: Rows
    out_words: NDArray[np.uint64]
    """``out``, as words of 64 bits."""
    ledger: Ledger
    predictions: Predictions
    rows: Int64
    """``[n]``: symbols that are decided together."""
    acts: Int64
    """``[n]``: those of them that want an order."""
    log: Log
    closes: Float64
    """``[n]``: closes of the bars that close together; NaN: none."""
    signals: Float64
    """``[n]``: their traditional signals."""
    cross_rows: Float64
    """``[n, 4]``: what the other symbols say, as features."""
    agreement: Float64
    """``[n]``."""
    shift: Float64
    """``[n]``."""


def new_core(spec: CoreSpec, ledger: Ledger, predictions: Predictions | None = None) -> Core:
    """Return a core before its first tick; it works on the ledger that is given, and on its memory.

    Raises:
        SettingsError: a number of the configuration is impossible; the message names it.
    """
    _check(spec)
    n, base = len(spec.instruments), spec.catalogue.base
    timeframes = base.coarser()
    config = checked(spec.config)
    models = config.simple_models + config.deep_models + int(config.meta)
    inputs = input_dtype(models)
    hours, session = hours_of(spec.instruments, spec.start)
    out = np.zeros(n, dtype=DECISION)
    core = Core(
        control=_control(spec, table=predictions is not None),
        watch=np.zeros(n, dtype=WATCH),
        hours=hours,
        gate=new_gates([item.point for item in spec.instruments], spec.spike_z),
        forming=new_forming(n, base),
        closed=new_closed(base),
        indicators=new_states((n, len(timeframes))),
        contexts=_contexts(timeframes),
        features=new_features(n),
        layout=new_layout(spec.catalogue),
        windows=new_windows(n),
        channels=channel_places(spec.catalogue),
        scratch_indicators=new_states(1),
        scratch_features=new_features(1),
        cross=new_cross(n, leading([item.symbol for item in spec.instruments])),
        config=config_row(config),
        table=ledger.table,
        inputs=np.zeros(n, dtype=inputs),
        account=np.zeros(1, dtype=ACCOUNT),
        states=new_state(n, config.horizon_bars).rows,
        memory=ledger.memory,
        out=out,
        out_words=out.view(np.uint64).reshape(n, -1),
        ledger=ledger,
        predictions=predictions or no_predictions(n, models),
        rows=np.zeros(n, dtype=np.int64),
        acts=np.zeros(n, dtype=np.int64),
        log=new_log(LOG_ROWS + 2 * n if spec.logs else n + 2, inputs),
        closes=np.full(n, np.nan),
        signals=np.full(n, np.nan),
        cross_rows=np.full((n, 4), np.nan),
        agreement=np.full(n, np.nan),
        shift=np.full(n, np.nan),
    )
    core.watch["session"] = session
    for name in ("votes", "agreement", "correlation_shift", "drift", "atr", "bid", "ask"):
        core.inputs[name] = np.nan
    for row in core.inputs:
        forget_answer(row)
    return core


def _check(spec: CoreSpec) -> None:
    for name in ("stale_s", "move_atr", "refresh_s", "history_bars"):
        value = getattr(spec, name)
        if not (math.isfinite(value) and value > 0):
            raise SettingsError(f"{name} is {value}", mend="give a number above 0")


def _control(spec: CoreSpec, *, table: bool) -> Rows:
    control = np.zeros(1, dtype=CONTROL)
    row = control[0]
    row["next_close"] = NEVER
    row["base_code"] = list(Timeframe).index(spec.catalogue.base)
    row["base_ns"] = spec.catalogue.base.nominal_ns
    row["since"] = row["clock"] = row["closed_until"] = spec.start
    row["stale_ns"] = int(spec.stale_s * SECOND_NS)
    row["move_atr"] = spec.move_atr
    row["refresh_ns"] = int(spec.refresh_s * SECOND_NS)
    row["asks"], row["table"], row["places"], row["logs"] = spec.asks and not table, table, spec.places, spec.logs
    row["healthy"] = True
    return control


def _contexts(timeframes: Sequence[Timeframe]) -> Int64:
    found = [[timeframes.index(other) for other in CONTEXT_TIMEFRAMES[timeframe]] for timeframe in timeframes]
    table = np.full((len(found), max(1, *(len(row) for row in found), 1)), -1, dtype=np.int64)
    for row, slots in zip(table, found, strict=True):
        row[: len(slots)] = slots
    return table


def no_predictions(symbols: int, models: int) -> Predictions:
    """Return a table without any prediction."""
    return Predictions(
        np.full((symbols, 1), NEVER, dtype=np.int64), np.full((symbols, 1, models + ANSWER_EXTRAS), np.nan),
        np.zeros(symbols, dtype=np.int64),
    )  # fmt: skip
