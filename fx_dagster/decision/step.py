"""The decision step: one call decides for every active symbol at one moment, in live trading and in backtests alike.

It reads inputs, account and positions, changes what it remembers in place and fills decisions. It is deterministic,
takes its time from its inputs, and asks nothing of the world outside. All arguments are the packed records of
:mod:`fx_dagster.decision.rows`; ``row`` is a symbol's inputs, ``own`` what is remembered of it, ``memory`` what is
remembered of the account, ``out`` its decision.
"""

import math
from typing import Any, TypeAlias

import numpy as np

from fx_dagster.compiled import compiled, inlined
from fx_dagster.decision.answers import (
    ENTER,
    EXIT_LONG,
    EXIT_SHORT,
    has_deep_extras,
    size_factor,
    timing_probability,
)
from fx_dagster.decision.codes import Action, Breaker, Command, Level, Reason, Stage
from fx_dagster.decision.combine import (
    classical_signal,
    combined_signal,
    learn_outcomes,
    mean_signal,
    model_support,
    model_trust,
    path_weights,
    traditional_signal,
    validate,
    vote_support,
)
from fx_dagster.decision.drawdown import next_stage, releasable
from fx_dagster.decision.entry import enter, stop_distance
from fx_dagster.decision.fallback import model_level, next_level, usable_probability
from fx_dagster.decision.rows import CLASSICAL
from fx_dagster.decision.sizing import to_grid

_NONE, _CLOSE, _MODIFY = int(Action.NONE), int(Action.CLOSE), int(Action.MODIFY)
_RUN, _FLATTEN = int(Command.RUN), int(Command.FLATTEN)
_FULL, _SIMPLE = int(Level.FULL_AI), int(Level.SIMPLE_AI)
_TRADITIONAL, _EMERGENCY = int(Level.TRADITIONAL), int(Level.EMERGENCY)
_HALVE, _CLOSE_ONLY, _HALT = int(Stage.HALVE), int(Stage.CLOSE_ONLY), int(Stage.HALT)

_DAILY_LOSS, _DRAWDOWN, _LOSS_STREAK = int(Breaker.DAILY_LOSS), int(Breaker.DRAWDOWN), int(Breaker.LOSS_STREAK)
_VOLATILITY, _SPREAD = int(Breaker.VOLATILITY_SPIKE), int(Breaker.SPREAD)
_CORRELATION, _HEALTH = int(Breaker.CORRELATION_BREAKDOWN), int(Breaker.SYSTEM_HEALTH)

_R_QUOTE, _R_STALE = int(Reason.QUOTE_INVALID), int(Reason.STALE)
_R_TRADABLE, _R_PENDING = int(Reason.NOT_TRADABLE), int(Reason.ORDER_PENDING)
_R_MODEL, _R_RANGE = int(Reason.MODEL_ABSENT), int(Reason.MODEL_OUT_OF_RANGE)
_R_VOTES, _R_ALONE = int(Reason.ALL_VOTES_ABSENT), int(Reason.CORRELATION_ABSENT)
_R_UNHEALTHY, _R_ACCOUNT = int(Reason.UNHEALTHY), int(Reason.ACCOUNT_INVALID)
_R_SCORE, _R_VALID = int(Reason.SCORE_LOW), int(Reason.NOT_VALID)
_R_BREAKER, _R_STAGE, _R_BAR = int(Reason.BREAKER_TRIPPED), int(Reason.DRAWDOWN_STAGE), int(Reason.BAR_USED)
_R_COMMAND, _R_DRIFT = int(Reason.COMMANDED), int(Reason.FEATURES_DRIFTED)
_R_AGE, _R_REVERSAL, _R_FLATTEN = int(Reason.EXIT_AGE), int(Reason.EXIT_REVERSAL), int(Reason.EXIT_FLATTEN)
_R_TIGHT, _R_HALTED = int(Reason.STOP_TIGHTENED), int(Reason.HALTED)
_R_EMERGENCY, _R_FOREIGN = int(Reason.LEVEL_EMERGENCY), int(Reason.FOREIGN_POSITION)
_R_CLOSED = int(Reason.MARKET_CLOSED)
_R_WAIT, _R_TIMED = int(Reason.TIMING_WAIT), int(Reason.EXIT_TIMING)

_EVEN = 0.5
"""The timing agent enters from this probability on, and leaves above it."""

Record: TypeAlias = Any
"""A record or an array of records of :mod:`fx_dagster.decision.rows`; Numba knows which."""


@compiled
def record_trade(memory: Record, result: float, risk_money: float) -> None:
    """Learn from a closed trade, its costs included; before the next decision.

    Args:
        memory: changed in place.
        result: money won (> 0) or lost, net of commission and swap.
        risk_money: money it had at risk at its stop; ≤ 0: not known, then it counts for the loss streak only.
    """
    if not math.isfinite(result):
        return
    memory.loss_streak = memory.loss_streak + 1 if result < 0.0 else 0
    if not (math.isfinite(risk_money) and risk_money > 0.0):
        return
    memory.trades += 1
    if result > 0.0:
        memory.wins += 1
        memory.gain_sum += result / risk_money
    else:
        memory.loss_sum -= result / risk_money


@compiled
def end_halt(memory: Record, states: Record, equity: float) -> None:
    """Do what a person's resuming does: drawdown counts from ``equity`` on, and the breakers that wait are reset."""
    memory.peak_equity = equity
    memory.day_start_equity = equity
    memory.stage = 0
    memory.stage_since = 0
    memory.released_drawdown = 0.0
    memory.day_loss_until = 0
    memory.streak_until = 0
    memory.loss_streak = 0
    for i in range(states.shape[0]):
        states[i].volatility_until = 0
        states[i].correlation_until = 0


@compiled
def _clear(own: Record, memory: Record, position: Record, out: Record) -> None:
    held = position.lots
    known = math.isfinite(held) and held != 0.0
    out.action = _NONE
    out.target_lots = held if known else 0.0
    out.stop = position.stop if known and math.isfinite(position.stop) else 0.0
    out.target = position.target if known and math.isfinite(position.target) else 0.0
    out.level = own.level
    out.observed_level = own.level
    out.reasons = 0
    out.breakers = 0
    out.stage = memory.stage
    out.score = 0.0
    out.validation = 0.0
    out.confidence = 0.0
    out.regime = 0
    out.kelly = 0.0
    out.risk_money = 0.0
    for k in range(3):
        out.signals[k] = 0.0
        out.weights[k] = 0.0
        out.validation_parts[k] = 0.0
    for k in range(out.sizes.shape[0]):
        out.sizes[k] = 0.0


@compiled
def _account_valid(account: Record) -> bool:
    return (
        math.isfinite(account.equity)
        and account.equity > 0.0
        and math.isfinite(account.balance)
        and math.isfinite(account.margin_used)
        and account.margin_used >= 0.0
    )


@compiled
def _update_stage(config: Record, account: Record, flat: bool, memory: Record) -> None:
    memory.peak_equity = max(memory.peak_equity, account.equity)
    drawdown = 1.0 - account.equity / memory.peak_equity
    before = memory.stage
    if releasable(before, memory.stage_since, account.time, config.breaker_ns, flat):
        memory.released_drawdown = max(drawdown, 1e-12)
        before = _HALVE
    after = next_stage(
        before, drawdown, config.stage_thresholds, config.stage_exit, memory.released_drawdown, config.stage_retrip
    )
    if after < _HALVE:
        memory.released_drawdown = 0.0
    if after != memory.stage:
        memory.stage_since = account.time
    memory.stage = after


@compiled
def _account_breakers(config: Record, account: Record, flat: bool, memory: Record) -> int:
    """Update what concerns the whole account; return its tripped breakers."""
    time = account.time
    if _account_valid(account):
        if account.trading_day != memory.day or memory.day_start_equity <= 0.0:
            memory.day = account.trading_day
            memory.day_start_equity = account.equity
        _update_stage(config, account, flat, memory)
        lost = account.equity <= memory.day_start_equity * (1.0 - config.daily_loss_max)
        if lost and time >= memory.day_loss_until:
            memory.day_loss_until = time + config.breaker_ns
    if memory.loss_streak >= config.loss_streak_max:
        memory.streak_until = time + config.breaker_ns
        memory.loss_streak = 0
    if not account.healthy:
        memory.unhealthy_until = time + config.recover_ns
    tripped = 0
    if time < memory.day_loss_until:
        tripped |= _DAILY_LOSS
    if memory.stage >= _CLOSE_ONLY:
        tripped |= _DRAWDOWN
    if time < memory.streak_until:
        tripped |= _LOSS_STREAK
    if time < memory.unhealthy_until:
        tripped |= _HEALTH
    return tripped


@compiled
def _symbol_breakers(config: Record, time: int, row: Record, quote_valid: bool, own: Record) -> int:
    short, long = row.volatility_short, row.volatility_long
    if math.isfinite(short) and math.isfinite(long) and long > 0.0 and short > config.volatility_ratio_max * long:
        own.volatility_until = time + config.breaker_ns
    shift = row.correlation_shift
    if math.isfinite(shift) and shift > config.correlation_shift_max:
        own.correlation_until = time + config.breaker_ns
    tripped = 0
    if time < own.volatility_until:
        tripped |= _VOLATILITY
    if time < own.correlation_until:
        tripped |= _CORRELATION
    median = row.spread_median
    if quote_valid and math.isfinite(median) and median > 0.0 and row.ask - row.bid > config.spread_ratio_max * median:
        tripped |= _SPREAD
    return tripped


@compiled
def _is_stale(row: Record, derived: Record) -> bool:
    """Return whether what was derived is of other inputs than these."""
    if row.version != derived.version:
        return True
    return row.drift != derived.drift and not (math.isnan(row.drift) and math.isnan(derived.drift))


@compiled
def _read(config: Record, row: Record, derived: Record) -> None:
    """Read what votes and models say, whatever the level, and the best level that the models' answers allow."""
    said = derived.said
    # No model has a part in it: neither in the control nor in how well the traditional path has done.
    said[0] = classical_signal(row.votes, config.vote_weights)
    said[1] = mean_signal(row.p_up, 0, config.simple_models)
    said[2] = mean_signal(row.p_up, config.simple_models, config.simple_models + config.deep_models)
    level = model_level(
        row.p_up, config.simple_models, config.deep_models, config.meta, config.best_level, has_deep_extras(row)
    )
    reasons = 0
    trust = model_trust(row.drift, config.drift_max, config.drift_strong)
    if config.best_level < _TRADITIONAL:
        if level > config.best_level:
            reasons |= _R_MODEL
        if trust < 1.0:
            reasons |= _R_DRIFT
        if trust <= 0.0:
            level = _TRADITIONAL
    for j in range(row.p_up.shape[0]):
        if not math.isnan(row.p_up[j]) and not usable_probability(row.p_up[j]):
            reasons |= _R_RANGE
    derived.version = row.version
    derived.drift = row.drift
    derived.trust = trust
    derived.model_level = level
    derived.model_reasons = reasons
    derived.level = -1


@compiled
def _observe_level(config: Record, account: Record, usable: bool, own: Record, memory: Record, out: Record) -> None:
    """Find the best level that this moment allows, and move the symbol's level by it."""
    observed = own.derived.model_level
    out.reasons |= own.derived.model_reasons
    if not usable or not account.healthy or memory.stage == _HALT:
        observed = _EMERGENCY
    level, candidate, since = next_level(
        own.level, own.level_candidate, own.level_since, observed, account.time, config.recover_ns
    )
    own.level = level
    own.level_candidate = candidate
    own.level_since = since
    if level == _EMERGENCY:
        own.emergency_at = account.time
        out.reasons |= _R_EMERGENCY
    out.level = level
    out.observed_level = observed


@compiled
def _derive(config: Record, row: Record, own: Record) -> None:
    """Combine and validate what the symbol's level lets count of what was read."""
    derived = own.derived
    paths, deep_end = derived.signals, config.simple_models + config.deep_models
    meta = math.nan
    for k in range(3):
        paths[k] = derived.said[k]
    if own.level >= _TRADITIONAL:
        paths[1] = math.nan
    if own.level >= _SIMPLE:
        paths[2] = math.nan
    elif config.meta and deep_end < row.p_up.shape[0] and usable_probability(row.p_up[deep_end]):
        meta = 2.0 * row.p_up[deep_end] - 1.0
    full = own.level == _FULL and derived.trust > 0.0
    if full:
        paths[0] = traditional_signal(row.votes, config.vote_weights)
    derived.reasons = 0 if math.isfinite(paths[0]) else _R_VOTES
    path_weights(
        config.combine, paths, meta, own.log_loss, config.loss_sharpness, config.parallel_traditional, derived.trust,
        derived.weights,
    )  # fmt: skip
    derived.score = combined_signal(config.combine, paths, meta, derived.weights)
    for k in range(3):
        if not math.isfinite(paths[k]):
            paths[k] = 0.0
    derived.level = own.level
    _validate(config, row, derived, full)
    _take_extras(config, row, derived, full)


@compiled
def _take_extras(config: Record, row: Record, derived: Record, full: bool) -> None:
    """Let confidence, regime and agents count at the full level, and nowhere else."""
    counts = full and usable_probability(row.confidence)
    derived.confidence = row.confidence if counts else 0.5 * (1.0 + abs(derived.score))
    known = full and 0 <= row.regime < config.regime_stop_max.shape[0]
    derived.regime = row.regime if known else 0
    act = full and config.agents
    derived.size = size_factor(row) if act else 1.0
    for k in range(derived.timing.shape[0]):
        derived.timing[k] = timing_probability(row, k) if act else math.nan


@compiled
def _validate(config: Record, row: Record, derived: Record, full: bool) -> None:
    direction = 1.0 if derived.score >= 0.0 else -1.0
    count = 0
    if derived.level < _TRADITIONAL:
        count = config.simple_models + (config.deep_models if derived.level < _SIMPLE else 0)
    if not math.isfinite(row.agreement):
        derived.reasons |= _R_ALONE
    derived.validation = validate(
        vote_support(row.votes, config.vote_weights, direction, row.votes.shape[0] if full else CLASSICAL),
        model_support(row.p_up, count, direction),
        0.5 * (1.0 + direction * row.agreement),
        config.validation_weights,
        derived.validation_parts,
    )


@compiled
def _tell(derived: Record, out: Record) -> None:
    """Copy what was derived into the decision."""
    out.reasons |= derived.reasons
    out.score = derived.score
    out.validation = derived.validation
    out.confidence = derived.confidence
    out.regime = derived.regime
    for k in range(3):
        out.signals[k] = derived.signals[k]
        out.weights[k] = derived.weights[k]
        out.validation_parts[k] = derived.validation_parts[k]


@compiled
def _blocked(config: Record, account: Record, row: Record, own: Record, memory: Record, out: Record) -> bool:
    """Return whether something keeps an entry away; every cause is written down."""
    reasons = 0
    if own.level == _EMERGENCY:
        reasons |= _R_EMERGENCY
    if not row.tradable:
        reasons |= _R_TRADABLE
    if out.breakers != 0:
        reasons |= _R_BREAKER
    if memory.stage >= _CLOSE_ONLY:
        reasons |= _R_STAGE
    if account.command != _RUN:
        reasons |= _R_COMMAND
    if own.entry_bar == row.bar_time:
        reasons |= _R_BAR
    if abs(out.score) < config.entry_score_min or out.score == 0.0:
        reasons |= _R_SCORE
    if not out.validation > config.valid_above:
        reasons |= _R_VALID
    if own.derived.timing[ENTER] < _EVEN:
        reasons |= _R_WAIT
    out.reasons |= reasons
    return reasons != 0


@compiled
def _close(reason: int, out: Record) -> None:
    out.action = _CLOSE
    out.target_lots = 0.0
    out.stop = 0.0
    out.target = 0.0
    out.reasons |= reason


@compiled
def _tighten(
    config: Record, item: Record, row: Record, position: Record, own: Record, memory: Record, out: Record
) -> None:
    """From stage 2 on, draw the stop to the tighter distance; never away from the market."""
    points = stop_distance(config, item, row, own.derived.regime, memory)
    if points <= 0.0:
        return
    direction = 1.0 if position.lots > 0.0 else -1.0
    price = row.bid if direction > 0.0 else row.ask
    stop = to_grid(price - direction * points * item.point, item.point)
    present = position.stop
    unprotected = not (math.isfinite(present) and present > 0.0)
    if stop > 0.0 and (unprotected or (stop - present) * direction > 0.0):
        out.action = _MODIFY
        out.stop = stop
        out.reasons |= _R_TIGHT


@compiled
def _manage(
    config: Record, item: Record, account: Record, row: Record, position: Record, usable: bool, new_bar: bool,
    own: Record, memory: Record, out: Record,
) -> None:  # fmt: skip
    """Decide about an open position: flatten, too old, reversed, left by the timing agent, or a tighter stop."""
    if account.command == _FLATTEN:
        _close(_R_FLATTEN | _R_COMMAND, out)
    elif not usable:
        return
    elif memory.stage == _HALT:
        _close(_R_FLATTEN | _R_HALTED, out)
    elif own.age_bars >= config.hold_bars_max:
        _close(_R_AGE, out)
    elif (
        own.level != _EMERGENCY
        and out.score * position.lots < 0.0
        and abs(out.score) >= config.entry_score_min
        and out.validation > config.valid_above
    ):
        _close(_R_REVERSAL, out)
    elif own.age_bars >= 1 and own.derived.timing[EXIT_LONG if position.lots > 0.0 else EXIT_SHORT] > _EVEN:
        _close(_R_TIMED, out)
    elif memory.stage >= _HALVE and new_bar:
        _tighten(config, item, row, position, own, memory, out)


@compiled
def _note_bar(row: Record, held: float, own: Record) -> bool:
    """Return whether a base bar has closed since the last decision, and count the position's age."""
    new_bar = row.bar_time > own.bar_time
    if new_bar:
        own.bar_time = row.bar_time
    if not (math.isfinite(held) and held != 0.0):
        own.age_bars = 0
        return new_bar
    own.planned_lots = 0.0
    if new_bar:
        own.age_bars += 1
    return new_bar


@compiled
def _input_reasons(row: Record, account: Record, quote_valid: bool, account_valid: bool, foreign: float) -> int:
    reasons = 0
    if not quote_valid:
        reasons |= _R_QUOTE
    if not row.market_open:
        reasons |= _R_CLOSED
    elif not row.fresh:
        reasons |= _R_STALE
    if not account_valid:
        reasons |= _R_ACCOUNT
    if not account.healthy:
        reasons |= _R_UNHEALTHY
    if foreign != 0.0:
        reasons |= _R_FOREIGN
    return reasons


@compiled
def _decide_row(
    config: Record, item: Record, account: Record, row: Record, position: Record, breakers: int, own: Record,
    memory: Record, out: Record,
) -> bool:  # fmt: skip
    """Decide for one symbol all but the size of an entry; return whether nothing keeps an entry away."""
    _clear(own, memory, position, out)
    quote_valid = math.isfinite(row.bid) and math.isfinite(row.ask) and 0.0 < row.bid <= row.ask
    held = position.lots
    account_valid = _account_valid(account) and math.isfinite(held)
    usable = quote_valid and row.fresh and row.market_open
    new_bar = _note_bar(row, held, own)
    out.reasons = _input_reasons(row, account, quote_valid, account_valid, position.foreign_lots)
    if new_bar or _is_stale(row, own.derived):
        _read(config, row, own.derived)
    if row.market_open:
        _observe_level(config, account, usable and account_valid, own, memory, out)
    out.breakers = breakers | _symbol_breakers(config, account.time, row, quote_valid, own)
    if new_bar and quote_valid:
        learn_outcomes(own, 0.5 * (row.bid + row.ask), own.derived.said, config.loss_decay)
    if own.derived.level != own.level:
        _derive(config, row, own)
    _tell(own.derived, out)
    if position.pending:
        out.reasons |= _R_PENDING
        return False
    if not math.isfinite(held):
        return False
    if held != 0.0:
        _manage(config, item, account, row, position, usable, new_bar, own, memory, out)
        return False
    return usable and account_valid and not _blocked(config, account, row, own, memory, out)


@inlined
def decide_rows(
    configs: Record, table: Record, inputs: Record, accounts: Record, positions: Record, states: Record,
    memories: Record, out: Record, rows: np.ndarray, open_count: int, returns: np.ndarray,
) -> None:  # fmt: skip
    """Decide for the symbols in ``rows``, in that order; no other row is touched.

    ``states``, ``memories`` and ``out`` are changed in place; an entry counts in the limits of the rows after it. Only
    an entry that nothing else keeps away looks at other symbols: at what they hold, what is on its way for them, and
    what is held there by hand.

    Args:
        configs: one record.
        table: ``[n]`` of :data:`rows.INSTRUMENT`.
        inputs: ``[n]`` of :func:`rows.input_dtype`.
        accounts: one record.
        positions: ``[n]`` of :data:`rows.POSITION`.
        states: ``[n]`` of :func:`rows.state_dtype`.
        memories: one record.
        out: ``[n]`` of :data:`rows.DECISION`.
        rows: int64 ``[k]`` symbols.
        open_count: how many symbols have a position.
        returns: float64 ``[w, n]``, C-contiguous: log returns of the newest w base bars of all symbols, rows in any
            order, NaN where unknown; w may be 0. For correlation, VaR and CVaR.
    """
    breakers = _account_breakers(configs[0], accounts[0], open_count == 0, memories[0])
    for k in range(rows.shape[0]):
        i = rows[k]
        if _decide_row(
            configs[0], table[i], accounts[0], inputs[i], positions[i], breakers, states[i], memories[0], out[i]
        ):
            enter(configs, table, inputs, accounts, positions, states, memories, out, i, returns)


@compiled
def decide(
    configs: Record, table: Record, inputs: Record, accounts: Record, positions: Record, states: Record,
    memories: Record, out: Record, open_count: int, returns: np.ndarray,
) -> None:  # fmt: skip
    """Decide for every active row, in order; the others get ``Action.NONE``. See :func:`decide_rows`."""
    rows = np.empty(inputs.shape[0], dtype=np.int64)
    count = 0
    for i in range(inputs.shape[0]):
        if inputs[i].active:
            rows[count] = i
            count += 1
        else:
            _clear(states[i], memories[0], positions[i], out[i])
    decide_rows(configs, table, inputs, accounts, positions, states, memories, out, rows[:count], open_count, returns)
