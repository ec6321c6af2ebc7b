"""The decision step: one call decides for every active symbol at one moment, in live trading and in backtests alike.

It reads inputs, account and positions, changes :class:`DecisionState` in place and fills :class:`Decisions`. It is
deterministic, takes its time from its inputs, and asks nothing of the world outside.
"""

import math

from fx_dagster.decision.arrays import AccountState, DecisionState, Decisions, InstrumentTable, PositionTable, StepInputs
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
from fx_dagster.decision.compiled import compiled
from fx_dagster.decision.config import StepConfig
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


@compiled
def record_trade(state: DecisionState, result: float, risk_money: float) -> None:
    """Learn from a closed trade, its costs included; before the next decision.

    Args:
        state: changed in place.
        result: money won (> 0) or lost, net of commission and swap.
        risk_money: money it had at risk at its stop; ≤ 0: not known, then it counts for the loss streak only.
    """
    if not math.isfinite(result):
        return
    state.loss_streak[0] = state.loss_streak[0] + 1 if result < 0.0 else 0
    if not (math.isfinite(risk_money) and risk_money > 0.0):
        return
    state.trades[0] += 1
    if result > 0.0:
        state.wins[0] += 1
        state.gain_sum[0] += result / risk_money
    else:
        state.loss_sum[0] -= result / risk_money


@compiled
def _clear(i: int, state: DecisionState, positions: PositionTable, out: Decisions) -> None:
    out.action[i] = _NONE
    held = positions.lots[i]
    known = math.isfinite(held) and held != 0.0
    out.target_lots[i] = held if known else 0.0
    out.stop[i] = positions.stop[i] if known and math.isfinite(positions.stop[i]) else 0.0
    out.target[i] = positions.target[i] if known and math.isfinite(positions.target[i]) else 0.0
    out.level[i] = state.level[i]
    out.observed_level[i] = state.level[i]
    out.reasons[i] = 0
    out.breakers[i] = 0
    out.stage[i] = state.stage[0]
    out.score[i] = 0.0
    out.signals[i, :] = 0.0
    out.weights[i, :] = 0.0
    out.validation[i] = 0.0
    out.validation_parts[i, :] = 0.0
    out.confidence[i] = 0.0
    out.kelly[i] = 0.0
    out.risk_money[i] = 0.0
    out.sizes[i, :] = 0.0


@compiled
def _account_valid(account: AccountState) -> bool:
    return (
        math.isfinite(account.equity)
        and account.equity > 0.0
        and math.isfinite(account.balance)
        and math.isfinite(account.margin_used)
        and account.margin_used >= 0.0
    )


@compiled
def _update_stage(config: StepConfig, time: int, equity: float, flat: bool, state: DecisionState) -> None:
    state.peak_equity[0] = max(state.peak_equity[0], equity)
    drawdown = 1.0 - equity / state.peak_equity[0]
    before = state.stage[0]
    if releasable(before, state.stage_since[0], time, config.breaker_ns, flat):
        state.released_drawdown[0] = max(drawdown, 1e-12)
        before = _HALVE
    after = next_stage(
        before, drawdown, config.stage_thresholds, config.stage_exit, state.released_drawdown[0], config.stage_retrip
    )
    if after < _HALVE:
        state.released_drawdown[0] = 0.0
    if after != state.stage[0]:
        state.stage_since[0] = time
    state.stage[0] = after


@compiled
def _account_breakers(
    config: StepConfig, inputs: StepInputs, account: AccountState, flat: bool, state: DecisionState
) -> int:
    """Update what concerns the whole account; return its tripped breakers."""
    time = inputs.time
    tripped = 0
    if _account_valid(account):
        if inputs.trading_day != state.day[0] or state.day_start_equity[0] <= 0.0:
            state.day[0] = inputs.trading_day
            state.day_start_equity[0] = account.equity
        _update_stage(config, time, account.equity, flat, state)
        lost = account.equity <= state.day_start_equity[0] * (1.0 - config.daily_loss_max)
        if lost and time >= state.day_loss_until[0]:
            state.day_loss_until[0] = time + config.breaker_ns
    if state.loss_streak[0] >= config.loss_streak_max:
        state.streak_until[0] = time + config.breaker_ns
        state.loss_streak[0] = 0
    if not account.healthy:
        state.unhealthy_until[0] = time + config.recover_ns
    if time < state.day_loss_until[0]:
        tripped |= _DAILY_LOSS
    if state.stage[0] >= _CLOSE_ONLY:
        tripped |= _DRAWDOWN
    if time < state.streak_until[0]:
        tripped |= _LOSS_STREAK
    if time < state.unhealthy_until[0]:
        tripped |= _HEALTH
    return tripped


@compiled
def _symbol_breakers(config: StepConfig, i: int, inputs: StepInputs, quote_valid: bool, state: DecisionState) -> int:
    time = inputs.time
    tripped = 0
    short, long = inputs.volatility_short[i], inputs.volatility_long[i]
    if math.isfinite(short) and math.isfinite(long) and long > 0.0 and short > config.volatility_ratio_max * long:
        state.breaker_until[i, 0] = max(state.breaker_until[i, 0], time + config.breaker_ns)
    shift = inputs.correlation_shift[i]
    if math.isfinite(shift) and shift > config.correlation_shift_max:
        state.breaker_until[i, 1] = max(state.breaker_until[i, 1], time + config.breaker_ns)
    if time < state.breaker_until[i, 0]:
        tripped |= _VOLATILITY
    if time < state.breaker_until[i, 1]:
        tripped |= _CORRELATION
    median = inputs.spread_median[i]
    if quote_valid and math.isfinite(median) and median > 0.0:
        if inputs.ask[i] - inputs.bid[i] > config.spread_ratio_max * median:
            tripped |= _SPREAD
    return tripped


@compiled
def _observe_level(
    config: StepConfig, i: int, inputs: StepInputs, account: AccountState, usable: bool, state: DecisionState,
    out: Decisions,
) -> None:  # fmt: skip
    """Find the best level that this moment allows, and move the symbol's level by it."""
    p_up = inputs.p_up[i]
    observed = model_level(p_up, config.simple_models, config.deep_models, config.meta, config.best_level)
    if config.best_level < _TRADITIONAL and observed > config.best_level:
        out.reasons[i] |= _R_MODEL
    for j in range(p_up.shape[0]):
        if not math.isnan(p_up[j]) and not usable_probability(p_up[j]):
            out.reasons[i] |= _R_RANGE
    if not usable or not account.healthy or state.stage[0] == _HALT:
        observed = _EMERGENCY
    level, candidate, since = next_level(
        state.level[i], state.level_candidate[i], state.level_since[i], observed, inputs.time, config.recover_ns
    )
    state.level[i], state.level_candidate[i], state.level_since[i] = level, candidate, since
    if level == _EMERGENCY:
        state.emergency_at[i] = inputs.time
        out.reasons[i] |= _R_EMERGENCY
    out.level[i] = level
    out.observed_level[i] = observed


@compiled
def _signals(config: StepConfig, i: int, inputs: StepInputs, learn: bool, state: DecisionState, out: Decisions) -> None:
    """Read votes and models, learn from what they said before, and combine what this level allows."""
    p_up = inputs.p_up[i]
    deep_end = config.simple_models + config.deep_models
    paths = out.signals[i]
    paths[0] = traditional_signal(inputs.votes[i], config.vote_weights)
    paths[1] = mean_signal(p_up, 0, config.simple_models)
    paths[2] = mean_signal(p_up, config.simple_models, deep_end)
    if learn:
        price = 0.5 * (inputs.bid[i] + inputs.ask[i])
        learn_outcomes(
            i, price, paths, config.loss_decay, state.log_loss, state.pending_p, state.pending_price, state.pending_at
        )
    meta = math.nan
    level = state.level[i]
    if level >= _TRADITIONAL:
        paths[1] = math.nan
    if level >= _SIMPLE:
        paths[2] = math.nan
    elif config.meta and deep_end < p_up.shape[0] and usable_probability(p_up[deep_end]):
        meta = 2.0 * p_up[deep_end] - 1.0
    if not math.isfinite(paths[0]):
        out.reasons[i] |= _R_VOTES
    weights = out.weights[i]
    path_weights(
        config.combine, paths, meta, state.log_loss[i], config.loss_sharpness, config.parallel_traditional, weights
    )
    out.score[i] = combined_signal(config.combine, paths, meta, weights)
    for k in range(3):
        if not math.isfinite(paths[k]):
            paths[k] = 0.0


@compiled
def _validation(config: StepConfig, i: int, inputs: StepInputs, state: DecisionState, out: Decisions) -> None:
    score = out.score[i]
    direction = 1.0 if score >= 0.0 else -1.0
    count = 0
    if state.level[i] < _TRADITIONAL:
        count = config.simple_models + (config.deep_models if state.level[i] < _SIMPLE else 0)
    agreement = inputs.agreement[i]
    if not math.isfinite(agreement):
        out.reasons[i] |= _R_ALONE
    out.validation[i] = validate(
        vote_support(inputs.votes[i], config.vote_weights, direction),
        model_support(inputs.p_up[i], count, direction),
        0.5 * (1.0 + direction * agreement),
        config.validation_weights,
        out.validation_parts[i],
    )
    given = inputs.confidence[i]
    out.confidence[i] = given if usable_probability(given) else 0.5 * (1.0 + abs(score))


@compiled
def _blocked(config: StepConfig, i: int, inputs: StepInputs, account: AccountState, state: DecisionState, out: Decisions) -> bool:
    """Return whether something keeps an entry away; every cause is written down."""
    reasons = 0
    if state.level[i] == _EMERGENCY:
        reasons |= _R_EMERGENCY
    if not inputs.tradable[i]:
        reasons |= _R_TRADABLE
    if out.breakers[i] != 0:
        reasons |= _R_BREAKER
    if state.stage[0] >= _CLOSE_ONLY:
        reasons |= _R_STAGE
    if account.command != _RUN:
        reasons |= _R_COMMAND
    if state.entry_bar[i] == inputs.bar_time[i]:
        reasons |= _R_BAR
    if abs(out.score[i]) < config.entry_score_min or out.score[i] == 0.0:
        reasons |= _R_SCORE
    if not out.validation[i] > config.valid_above:
        reasons |= _R_VALID
    out.reasons[i] |= reasons
    return reasons != 0


@compiled
def _stop_distance(config: StepConfig, i: int, table: InstrumentTable, inputs: StepInputs, state: DecisionState) -> float:
    """Return the stop distance in points; 0 where no stop is possible."""
    regime = inputs.regime[i]
    row = regime if 0 <= regime < len(config.regime_stop_max) else 0
    tight = config.tight_stop if state.stage[0] >= _HALVE else 1.0
    # Of the lower of the two prices an entry may have: the distance is never beyond the share of either.
    points = stop_points(
        inputs.atr[i], config.stop_atr * tight, inputs.bid[i], config.regime_stop_max[row], table.point[i]
    )
    spread_points = (inputs.ask[i] - inputs.bid[i]) / table.point[i]
    if points <= spread_points or points < max(table.stops_level_points[i], 1.0):
        return 0.0
    return points


@compiled
def _wished_risk(config: StepConfig, i: int, state: DecisionState, out: Decisions) -> float:
    """Return the fraction of equity to risk before any scaling: Kelly's, or exploring on paper."""
    out.kelly[i] = kelly_risk(
        state.trades[0], state.wins[0], state.gain_sum[0], state.loss_sum[0], config.kelly_trades_min,
        config.kelly_fraction,
    )  # fmt: skip
    if not config.paper:
        return out.kelly[i]
    if out.kelly[i] < config.explore_risk:
        out.reasons[i] |= _R_EXPLORE
    return max(out.kelly[i], config.explore_risk)


@compiled
def _entry_size(
    config: StepConfig, i: int, table: InstrumentTable, inputs: StepInputs, account: AccountState, margin_used: float,
    foreign_lots: float, distance: float, state: DecisionState, out: Decisions,
) -> int:  # fmt: skip
    """Return the lot steps of an entry and fill ``out.sizes``: scalings first, then limits, then the grid."""
    sizes = out.sizes[i]
    conversion = inputs.conversion[i]
    contract = table.contract_size[i]
    slippage = 2.0 * config.slippage_points * table.point[i]
    loss_per_lot = value_of_distance(distance + slippage, contract, conversion) + 2.0 * config.commission_per_lot
    margin = margin_per_lot(inputs.ask[i], contract, conversion, table.margin_rate[i])
    if not (math.isfinite(loss_per_lot) and loss_per_lot > 0.0 and math.isfinite(margin) and margin > 0.0):
        return 0
    regime = inputs.regime[i]
    row = regime if 0 <= regime < len(config.regime_position_max) else 0
    equity = account.equity
    sizes[_S_KELLY] = lots_within(equity * _wished_risk(config, i, state, out), loss_per_lot)
    scale = volatility_scale(
        inputs.volatility_short[i], config.target_volatility, config.volatility_scale_min, config.volatility_scale_max
    )
    sizes[_S_VOLATILITY] = sizes[_S_KELLY] * scale
    scale = confidence_scale(out.confidence[i], config.confidence_factor, config.confidence_scale_max)
    sizes[_S_CONFIDENCE] = sizes[_S_VOLATILITY] * scale
    scale = config.stage_scales[state.stage[0]]
    if state.emergency_at[i] > 0 and inputs.time - state.emergency_at[i] < config.conservative_ns:
        scale *= config.conservative_scale
    sizes[_S_DRAWDOWN] = sizes[_S_CONFIDENCE] * scale
    sizes[_S_RISK] = min(sizes[_S_DRAWDOWN], lots_within(equity * config.risk_per_trade_max, loss_per_lot))
    regime_room = equity * config.regime_position_max[row] - abs(foreign_lots) * margin
    sizes[_S_REGIME] = min(sizes[_S_RISK], lots_within(regime_room, margin))
    sizes[_S_MARGIN] = min(sizes[_S_REGIME], lots_within(equity * config.margin_used_max - margin_used, margin))
    numerator, denominator = table.lot_numerator[i], table.lot_denominator[i]
    steps = tradable_steps(sizes[_S_MARGIN], numerator, denominator, table.lot_min_steps[i], table.lot_max_steps[i])
    sizes[_S_ROUNDED] = steps * numerator / denominator
    out.risk_money[i] = sizes[_S_ROUNDED] * loss_per_lot
    if sizes[_S_KELLY] <= 0.0:
        out.reasons[i] |= _R_EDGE
    elif steps == 0:
        out.reasons[i] |= _R_LOT
    return steps


@compiled
def _enter(
    config: StepConfig, i: int, table: InstrumentTable, inputs: StepInputs, account: AccountState, margin_used: float,
    foreign_lots: float, state: DecisionState, out: Decisions,
) -> float:  # fmt: skip
    """Decide an entry; return the margin that it will bind."""
    points = _stop_distance(config, i, table, inputs, state)
    if points <= 0.0:
        out.reasons[i] |= _R_STOP
        return 0.0
    point = table.point[i]
    distance = points * point
    steps = _entry_size(config, i, table, inputs, account, margin_used, foreign_lots, distance, state, out)
    if steps == 0:
        return 0.0
    lots = out.sizes[i, _S_ROUNDED]
    reach = max(math.floor(config.target_atr * inputs.atr[i] / point), max(table.stops_level_points[i], 1.0)) * point
    direction = 1.0 if out.score[i] > 0.0 else -1.0
    price = inputs.ask[i] if direction > 0.0 else inputs.bid[i]
    stop = to_grid(price - direction * distance, point)
    target = to_grid(price + direction * reach, point)
    if stop <= 0.0 or target <= 0.0:
        out.reasons[i] |= _R_STOP
        return 0.0
    out.action[i] = _OPEN
    out.target_lots[i] = direction * lots
    out.stop[i] = stop
    out.target[i] = target
    out.reasons[i] |= _R_ENTER
    state.entry_bar[i] = inputs.bar_time[i]
    return lots * margin_per_lot(inputs.ask[i], table.contract_size[i], inputs.conversion[i], table.margin_rate[i])


@compiled
def _close(i: int, reason: int, out: Decisions) -> None:
    out.action[i] = _CLOSE
    out.target_lots[i] = 0.0
    out.stop[i] = 0.0
    out.target[i] = 0.0
    out.reasons[i] |= reason


@compiled
def _tighten(
    config: StepConfig, i: int, table: InstrumentTable, inputs: StepInputs, positions: PositionTable,
    state: DecisionState, out: Decisions,
) -> None:  # fmt: skip
    """From stage 2 on, draw the stop to the tighter distance; never away from the market."""
    points = _stop_distance(config, i, table, inputs, state)
    if points <= 0.0:
        return
    direction = 1.0 if positions.lots[i] > 0.0 else -1.0
    price = inputs.bid[i] if direction > 0.0 else inputs.ask[i]
    stop = to_grid(price - direction * points * table.point[i], table.point[i])
    present = positions.stop[i]
    if stop > 0.0 and (not (math.isfinite(present) and present > 0.0) or (stop - present) * direction > 0.0):
        out.action[i] = _MODIFY
        out.stop[i] = stop
        out.reasons[i] |= _R_TIGHT


@compiled
def _manage(
    config: StepConfig, i: int, table: InstrumentTable, inputs: StepInputs, account: AccountState,
    positions: PositionTable, usable: bool, new_bar: bool, state: DecisionState, out: Decisions,
) -> None:  # fmt: skip
    """Decide about an open position: flatten, too old, reversed, or a tighter stop."""
    if account.command == _FLATTEN:
        _close(i, _R_FLATTEN | _R_COMMAND, out)
    elif not usable:
        return
    elif state.stage[0] == _HALT:
        _close(i, _R_FLATTEN | _R_HALTED, out)
    elif state.age_bars[i] >= config.hold_bars_max:
        _close(i, _R_AGE, out)
    elif (
        state.level[i] != _EMERGENCY
        and out.score[i] * positions.lots[i] < 0.0
        and abs(out.score[i]) >= config.entry_score_min
        and out.validation[i] > config.valid_above
    ):
        _close(i, _R_REVERSAL, out)
    elif state.stage[0] >= _HALVE and new_bar:
        _tighten(config, i, table, inputs, positions, state, out)


@compiled
def _decide_row(
    config: StepConfig, i: int, table: InstrumentTable, inputs: StepInputs, account: AccountState, margin_used: float,
    positions: PositionTable, breakers: int, state: DecisionState, out: Decisions,
) -> float:  # fmt: skip
    """Decide for one symbol; return the margin that its entry will bind."""
    bid, ask = inputs.bid[i], inputs.ask[i]
    quote_valid = math.isfinite(bid) and math.isfinite(ask) and 0.0 < bid <= ask
    held = positions.lots[i]
    account_valid = _account_valid(account) and math.isfinite(held)
    market_open = inputs.market_open[i]
    usable = quote_valid and inputs.fresh[i] and market_open
    new_bar = inputs.bar_time[i] > state.bar_time[i]
    if new_bar:
        state.bar_time[i] = inputs.bar_time[i]
    if not (math.isfinite(held) and held != 0.0):
        state.age_bars[i] = 0
    elif new_bar:
        state.age_bars[i] += 1
    reasons = 0
    if not quote_valid:
        reasons |= _R_QUOTE
    if not market_open:
        reasons |= _R_CLOSED
    elif not inputs.fresh[i]:
        reasons |= _R_STALE
    if not account_valid:
        reasons |= _R_ACCOUNT
    if not account.healthy:
        reasons |= _R_UNHEALTHY
    foreign = positions.foreign_lots[i] if math.isfinite(positions.foreign_lots[i]) else math.inf
    if foreign != 0.0:
        reasons |= _R_FOREIGN
    out.reasons[i] = reasons
    if market_open:
        _observe_level(config, i, inputs, account, usable and account_valid, state, out)
    out.breakers[i] = breakers | _symbol_breakers(config, i, inputs, quote_valid, state)
    _signals(config, i, inputs, new_bar and quote_valid, state, out)
    _validation(config, i, inputs, state, out)
    if positions.pending[i]:
        out.reasons[i] |= _R_PENDING
        return 0.0
    if not math.isfinite(held):
        return 0.0
    if held != 0.0:
        _manage(config, i, table, inputs, account, positions, usable, new_bar, state, out)
        return 0.0
    if not (usable and account_valid) or _blocked(config, i, inputs, account, state, out):
        return 0.0
    return _enter(config, i, table, inputs, account, margin_used, foreign, state, out)


@compiled
def decide(
    config: StepConfig,
    table: InstrumentTable,
    inputs: StepInputs,
    account: AccountState,
    positions: PositionTable,
    state: DecisionState,
    out: Decisions,
) -> None:
    """Decide for every active row. ``state`` and ``out`` are changed in place.

    Rows are decided in order; the margin of an entry counts for the rows after it.
    """
    rows = inputs.bid.shape[0]
    flat = True
    for i in range(rows):
        if positions.lots[i] != 0.0:
            flat = False
    breakers = _account_breakers(config, inputs, account, flat, state)
    margin_used = account.margin_used
    for i in range(rows):
        _clear(i, state, positions, out)
        if inputs.active[i]:
            margin_used += _decide_row(
                config, i, table, inputs, account, margin_used, positions, breakers, state, out
            )
