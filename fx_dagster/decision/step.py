"""The decision step: one call decides for every active symbol at one moment, in live trading and in backtests alike.

It reads inputs, account and positions, changes what it remembers in place and fills decisions. It is deterministic,
takes its time from its inputs, and asks nothing of the world outside. All arguments are the packed records of
:mod:`fx_dagster.decision.rows`; ``row`` is a symbol's inputs, ``own`` what is remembered of it, ``memory`` what is
remembered of the account, ``out`` its decision.
"""

import math
from typing import Any, TypeAlias

from fx_dagster.compiled import compiled
from fx_dagster.decision.codes import Action, Breaker, Command, Level, Reason, Size, Stage
from fx_dagster.decision.combine import (
    combined_signal,
    learn_outcomes,
    mean_signal,
    model_support,
    path_weights,
    traditional_signal,
    validate,
    vote_support,
)
from fx_dagster.decision.drawdown import next_stage, releasable
from fx_dagster.decision.fallback import model_level, next_level, usable_probability
from fx_dagster.decision.sizing import (
    confidence_scale,
    kelly_risk,
    lots_within,
    margin_per_lot,
    stop_points,
    to_grid,
    tradable_steps,
    value_of_distance,
    volatility_scale,
)

_NONE, _OPEN, _CLOSE, _MODIFY = int(Action.NONE), int(Action.OPEN), int(Action.CLOSE), int(Action.MODIFY)
_RUN, _FLATTEN = int(Command.RUN), int(Command.FLATTEN)
_SIMPLE, _TRADITIONAL, _EMERGENCY = int(Level.SIMPLE_AI), int(Level.TRADITIONAL), int(Level.EMERGENCY)
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
_R_EDGE, _R_STOP, _R_LOT = int(Reason.NO_EDGE), int(Reason.STOP_IMPOSSIBLE), int(Reason.BELOW_MINIMUM_LOT)
_R_EXPLORE, _R_COMMAND, _R_ENTER = int(Reason.EXPLORING), int(Reason.COMMANDED), int(Reason.ENTER)
_R_AGE, _R_REVERSAL, _R_FLATTEN = int(Reason.EXIT_AGE), int(Reason.EXIT_REVERSAL), int(Reason.EXIT_FLATTEN)
_R_TIGHT, _R_HALTED = int(Reason.STOP_TIGHTENED), int(Reason.HALTED)
_R_EMERGENCY, _R_FOREIGN = int(Reason.LEVEL_EMERGENCY), int(Reason.FOREIGN_POSITION)
_R_CLOSED = int(Reason.MARKET_CLOSED)

_S_KELLY, _S_VOLATILITY, _S_CONFIDENCE = int(Size.KELLY), int(Size.VOLATILITY), int(Size.CONFIDENCE)
_S_DRAWDOWN, _S_RISK, _S_REGIME = int(Size.DRAWDOWN), int(Size.RISK_CAP), int(Size.REGIME_CAP)
_S_MARGIN, _S_ROUNDED = int(Size.MARGIN_CAP), int(Size.ROUNDED)


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
def _observe_level(
    config: Record, account: Record, row: Record, usable: bool, own: Record, memory: Record, out: Record
) -> None:
    """Find the best level that this moment allows, and move the symbol's level by it."""
    observed = model_level(row.p_up, config.simple_models, config.deep_models, config.meta, config.best_level)
    if config.best_level < _TRADITIONAL and observed > config.best_level:
        out.reasons |= _R_MODEL
    for j in range(row.p_up.shape[0]):
        if not math.isnan(row.p_up[j]) and not usable_probability(row.p_up[j]):
            out.reasons |= _R_RANGE
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
def _signals(config: Record, row: Record, learn: bool, own: Record, out: Record) -> None:
    """Read votes and models, learn from what they said before, and combine what this level allows."""
    deep_end = config.simple_models + config.deep_models
    paths = out.signals
    paths[0] = traditional_signal(row.votes, config.vote_weights)
    paths[1] = mean_signal(row.p_up, 0, config.simple_models)
    paths[2] = mean_signal(row.p_up, config.simple_models, deep_end)
    if learn:
        learn_outcomes(own, 0.5 * (row.bid + row.ask), paths, config.loss_decay)
    meta = math.nan
    if own.level >= _TRADITIONAL:
        paths[1] = math.nan
    if own.level >= _SIMPLE:
        paths[2] = math.nan
    elif config.meta and deep_end < row.p_up.shape[0] and usable_probability(row.p_up[deep_end]):
        meta = 2.0 * row.p_up[deep_end] - 1.0
    if not math.isfinite(paths[0]):
        out.reasons |= _R_VOTES
    path_weights(
        config.combine, paths, meta, own.log_loss, config.loss_sharpness, config.parallel_traditional, out.weights
    )
    out.score = combined_signal(config.combine, paths, meta, out.weights)
    for k in range(3):
        if not math.isfinite(paths[k]):
            paths[k] = 0.0


@compiled
def _validation(config: Record, row: Record, own: Record, out: Record) -> None:
    direction = 1.0 if out.score >= 0.0 else -1.0
    count = 0
    if own.level < _TRADITIONAL:
        count = config.simple_models + (config.deep_models if own.level < _SIMPLE else 0)
    if not math.isfinite(row.agreement):
        out.reasons |= _R_ALONE
    out.validation = validate(
        vote_support(row.votes, config.vote_weights, direction),
        model_support(row.p_up, count, direction),
        0.5 * (1.0 + direction * row.agreement),
        config.validation_weights,
        out.validation_parts,
    )
    out.confidence = row.confidence if usable_probability(row.confidence) else 0.5 * (1.0 + abs(out.score))


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
    out.reasons |= reasons
    return reasons != 0


@compiled
def _stop_distance(config: Record, item: Record, row: Record, memory: Record) -> float:
    """Return the stop distance in points; 0 where no stop is possible."""
    regime = row.regime if 0 <= row.regime < config.regime_stop_max.shape[0] else 0
    tight = config.tight_stop if memory.stage >= _HALVE else 1.0
    # By the lower of the two prices that an entry may have: the distance is beyond the share of neither.
    points = stop_points(row.atr, config.stop_atr * tight, row.bid, config.regime_stop_max[regime], item.point)
    if points <= (row.ask - row.bid) / item.point or points < max(item.stops_level_points, 1.0):
        return 0.0
    return points


@compiled
def _wished_risk(config: Record, memory: Record, out: Record) -> float:
    """Return the fraction of equity to risk before any scaling: Kelly's, or exploring on paper."""
    out.kelly = kelly_risk(
        memory.trades, memory.wins, memory.gain_sum, memory.loss_sum, config.kelly_trades_min, config.kelly_fraction
    )
    if not config.paper:
        return out.kelly
    if out.kelly < config.explore_risk:
        out.reasons |= _R_EXPLORE
    return max(out.kelly, config.explore_risk)


@compiled
def _scaled(
    config: Record, time: int, row: Record, own: Record, memory: Record, out: Record, loss_per_lot: float, equity: float
) -> float:
    """Return the wished lots after volatility, confidence and drawdown, before any limit."""
    sizes = out.sizes
    sizes[_S_KELLY] = lots_within(equity * _wished_risk(config, memory, out), loss_per_lot)
    sizes[_S_VOLATILITY] = sizes[_S_KELLY] * volatility_scale(
        row.volatility_short, config.target_volatility, config.volatility_scale_min, config.volatility_scale_max
    )
    sizes[_S_CONFIDENCE] = sizes[_S_VOLATILITY] * confidence_scale(
        out.confidence, config.confidence_factor, config.confidence_scale_max
    )
    scale = config.stage_scales[memory.stage]
    if own.emergency_at > 0 and time - own.emergency_at < config.conservative_ns:
        scale *= config.conservative_scale
    sizes[_S_DRAWDOWN] = sizes[_S_CONFIDENCE] * scale
    return sizes[_S_DRAWDOWN]


@compiled
def _entry_size(
    config: Record, item: Record, account: Record, row: Record, margin_used: float, foreign_lots: float,
    distance: float, own: Record, memory: Record, out: Record,
) -> int:  # fmt: skip
    """Return the lot steps of an entry and fill ``out.sizes``: scalings first, then limits, then the grid."""
    slippage = 2.0 * config.slippage_points * item.point
    loss_per_lot = value_of_distance(distance + slippage, item.contract_size, row.conversion)
    loss_per_lot += 2.0 * config.commission_per_lot
    margin = margin_per_lot(row.ask, item.contract_size, row.conversion, item.margin_rate)
    if not (math.isfinite(loss_per_lot) and loss_per_lot > 0.0 and math.isfinite(margin) and margin > 0.0):
        return 0
    sizes, equity = out.sizes, account.equity
    wished = _scaled(config, account.time, row, own, memory, out, loss_per_lot, equity)
    regime = row.regime if 0 <= row.regime < config.regime_position_max.shape[0] else 0
    sizes[_S_RISK] = min(wished, lots_within(equity * config.risk_per_trade_max, loss_per_lot))
    regime_room = equity * config.regime_position_max[regime] - abs(foreign_lots) * margin
    sizes[_S_REGIME] = min(sizes[_S_RISK], lots_within(regime_room, margin))
    sizes[_S_MARGIN] = min(sizes[_S_REGIME], lots_within(equity * config.margin_used_max - margin_used, margin))
    steps = tradable_steps(
        sizes[_S_MARGIN], item.lot_numerator, item.lot_denominator, item.lot_min_steps, item.lot_max_steps
    )
    sizes[_S_ROUNDED] = steps * item.lot_numerator / item.lot_denominator
    out.risk_money = sizes[_S_ROUNDED] * loss_per_lot
    if sizes[_S_KELLY] <= 0.0:
        out.reasons |= _R_EDGE
    elif steps == 0:
        out.reasons |= _R_LOT
    return steps


@compiled
def _enter(
    config: Record, item: Record, account: Record, row: Record, margin_used: float, foreign_lots: float, own: Record,
    memory: Record, out: Record,
) -> float:  # fmt: skip
    """Decide an entry; return the margin that it will bind."""
    point = item.point
    distance = _stop_distance(config, item, row, memory) * point
    if distance <= 0.0:
        out.reasons |= _R_STOP
        return 0.0
    direction = 1.0 if out.score > 0.0 else -1.0
    price = row.ask if direction > 0.0 else row.bid
    reach = max(math.floor(config.target_atr * row.atr / point), max(item.stops_level_points, 1.0)) * point
    stop, target = to_grid(price - direction * distance, point), to_grid(price + direction * reach, point)
    if stop <= 0.0 or target <= 0.0:
        out.reasons |= _R_STOP
        return 0.0
    if _entry_size(config, item, account, row, margin_used, foreign_lots, distance, own, memory, out) == 0:
        return 0.0
    lots = out.sizes[_S_ROUNDED]
    out.action = _OPEN
    out.target_lots = direction * lots
    out.stop = stop
    out.target = target
    out.reasons |= _R_ENTER
    own.entry_bar = row.bar_time
    return lots * margin_per_lot(row.ask, item.contract_size, row.conversion, item.margin_rate)


@compiled
def _close(reason: int, out: Record) -> None:
    out.action = _CLOSE
    out.target_lots = 0.0
    out.stop = 0.0
    out.target = 0.0
    out.reasons |= reason


@compiled
def _tighten(config: Record, item: Record, row: Record, position: Record, memory: Record, out: Record) -> None:
    """From stage 2 on, draw the stop to the tighter distance; never away from the market."""
    points = _stop_distance(config, item, row, memory)
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
    """Decide about an open position: flatten, too old, reversed, or a tighter stop."""
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
    elif memory.stage >= _HALVE and new_bar:
        _tighten(config, item, row, position, memory, out)


@compiled
def _note_bar(row: Record, held: float, own: Record) -> bool:
    """Return whether a base bar has closed since the last decision, and count the position's age."""
    new_bar = row.bar_time > own.bar_time
    if new_bar:
        own.bar_time = row.bar_time
    if not (math.isfinite(held) and held != 0.0):
        own.age_bars = 0
    elif new_bar:
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
    config: Record, item: Record, account: Record, row: Record, margin_used: float, position: Record, breakers: int,
    own: Record, memory: Record, out: Record,
) -> float:  # fmt: skip
    """Decide for one symbol; return the margin that its entry will bind."""
    quote_valid = math.isfinite(row.bid) and math.isfinite(row.ask) and 0.0 < row.bid <= row.ask
    held = position.lots
    account_valid = _account_valid(account) and math.isfinite(held)
    usable = quote_valid and row.fresh and row.market_open
    foreign = position.foreign_lots if math.isfinite(position.foreign_lots) else math.inf
    new_bar = _note_bar(row, held, own)
    out.reasons = _input_reasons(row, account, quote_valid, account_valid, foreign)
    if row.market_open:
        _observe_level(config, account, row, usable and account_valid, own, memory, out)
    out.breakers = breakers | _symbol_breakers(config, account.time, row, quote_valid, own)
    _signals(config, row, new_bar and quote_valid, own, out)
    _validation(config, row, own, out)
    if position.pending:
        out.reasons |= _R_PENDING
        return 0.0
    if not math.isfinite(held):
        return 0.0
    if held != 0.0:
        _manage(config, item, account, row, position, usable, new_bar, own, memory, out)
        return 0.0
    if not (usable and account_valid) or _blocked(config, account, row, own, memory, out):
        return 0.0
    return _enter(config, item, account, row, margin_used, foreign, own, memory, out)


@compiled
def decide(
    configs: Record, table: Record, inputs: Record, accounts: Record, positions: Record, states: Record,
    memories: Record, out: Record,
) -> None:  # fmt: skip
    """Decide for every active row; ``states``, ``memories`` and ``out`` are changed in place.

    Rows are decided in order; the margin of an entry counts for the rows after it. ``configs``, ``accounts`` and
    ``memories`` have one record, the others one a symbol.
    """
    config, account, memory = configs[0], accounts[0], memories[0]
    flat = True
    for i in range(positions.shape[0]):
        if positions[i].lots != 0.0:
            flat = False
    breakers = _account_breakers(config, account, flat, memory)
    margin_used = account.margin_used
    for i in range(inputs.shape[0]):
        _clear(states[i], memory, positions[i], out[i])
        if inputs[i].active:
            margin_used += _decide_row(
                config, table[i], account, inputs[i], margin_used, positions[i], breakers, states[i], memory, out[i]
            )
