"""Entries: where stop and target lie, and how large the position is.

Size is the wish of Kelly's fraction, scaled by volatility, confidence, the sizing agent and drawdown, then cut by one
limit after the other: risk at the stop, the regime's room, the account's margin, exposure by currency, correlated
positions, VaR and CVaR of the portfolio; last of all it is rounded down to the lot grid.
"""

import math
from typing import Any, TypeAlias

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.decision.codes import Action, Reason, Size, Stage
from fx_dagster.decision.portfolio import BOOK, currency_room, fill_book, lots_within_risk, shared_margin
from fx_dagster.decision.sizing import (
    confidence_scale,
    floor_steps,
    kelly_risk,
    lots_within,
    margin_per_lot,
    stop_points,
    to_grid,
    tradable_steps,
    value_of_distance,
    volatility_scale,
)

Record: TypeAlias = Any

_OPEN, _HALVE = int(Action.OPEN), int(Stage.HALVE)
_R_EDGE, _R_STOP, _R_LOT = int(Reason.NO_EDGE), int(Reason.STOP_IMPOSSIBLE), int(Reason.BELOW_MINIMUM_LOT)
_R_EXPLORE, _R_ENTER = int(Reason.EXPLORING), int(Reason.ENTER)
_R_CURRENCY, _R_CORRELATED = int(Reason.CURRENCY_LIMIT), int(Reason.CORRELATION_LIMIT)
_R_RISK = int(Reason.RISK_LIMIT)

_S_KELLY, _S_VOLATILITY, _S_CONFIDENCE = int(Size.KELLY), int(Size.VOLATILITY), int(Size.CONFIDENCE)
_S_AGENT = int(Size.AGENT)
_S_DRAWDOWN, _S_RISK, _S_REGIME = int(Size.DRAWDOWN), int(Size.RISK_CAP), int(Size.REGIME_CAP)
_S_MARGIN, _S_CURRENCY = int(Size.MARGIN_CAP), int(Size.CURRENCY_CAP)
_S_CORRELATION, _S_VAR, _S_ROUNDED = int(Size.CORRELATION_CAP), int(Size.VAR_CAP), int(Size.ROUNDED)


@compiled
def stop_distance(config: Record, item: Record, row: Record, regime: int, memory: Record) -> float:
    """Return the stop distance in points; 0 where no stop is possible. ``regime`` is the one whose limits hold."""
    tight = config.tight_stop if memory.stage >= _HALVE else 1.0
    # By the lower of the two prices that an entry may have: the distance is beyond the share of neither.
    share = config.regime_stop_max[regime]
    points = stop_points(row.atr, config.stop_atr * tight, row.bid, share, item.point)
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
    """Return the wished lots after volatility, confidence, agent and drawdown, before any limit."""
    sizes = out.sizes
    sizes[_S_KELLY] = lots_within(equity * _wished_risk(config, memory, out), loss_per_lot)
    sizes[_S_VOLATILITY] = sizes[_S_KELLY] * volatility_scale(
        row.volatility_short, config.target_volatility, config.volatility_scale_min, config.volatility_scale_max
    )
    sizes[_S_CONFIDENCE] = sizes[_S_VOLATILITY] * confidence_scale(
        out.confidence, config.confidence_factor, config.confidence_scale_max
    )
    sizes[_S_AGENT] = sizes[_S_CONFIDENCE] * own.derived.size
    scale = config.stage_scales[memory.stage]
    if own.emergency_at > 0 and time - own.emergency_at < config.conservative_ns:
        scale *= config.conservative_scale
    sizes[_S_DRAWDOWN] = sizes[_S_AGENT] * scale
    return sizes[_S_DRAWDOWN]


@compiled
def _loss_per_lot(config: Record, item: Record, account: Record, row: Record, distance: float) -> float:
    """Return what a lot loses at the stop, with slippage and commission of entry and exit."""
    slippage = 2.0 * config.slippage_points * item.point
    rate = account.commission_rate if math.isfinite(account.commission_rate) else 1.0
    commission = config.commission_per_lot * (rate if rate > 0.0 else 1.0)
    return value_of_distance(distance + slippage, item.contract_size, row.conversion) + 2.0 * commission


@compiled
def _tradable(item: Record, lots: float) -> int:
    return tradable_steps(lots, item.lot_numerator, item.lot_denominator, item.lot_min_steps, item.lot_max_steps)


@compiled
def _limit(item: Record, out: Record, before: int, limit: float, reason: int) -> int:
    """Cut the size after column ``before`` to ``limit`` lots; where nothing tradable is left, say why."""
    lots = min(out.sizes[before], max(limit, 0.0))
    out.sizes[before + 1] = lots
    steps = _tradable(item, lots)
    if steps == 0 and _tradable(item, out.sizes[before]) > 0:
        out.reasons |= reason
    return steps


@compiled
def _portfolio_limits(
    config: Record, table: Record, inputs: Record, account: Record, positions: Record, states: Record, out: Record,
    i: int, direction: float, margin: float, returns: np.ndarray,
) -> int:  # fmt: skip
    """Cut the size by what else is held and planned; return the lot steps that are left."""
    item, row, equity = table[i], inputs[i], account.equity
    book, rows = np.zeros(positions.shape[0], dtype=BOOK), np.empty(positions.shape[0], dtype=np.int64)
    count, planned = fill_book(table, inputs, positions, states, account.time, i, book, rows)
    held = rows[:count]
    unit = 0.5 * (row.bid + row.ask) * item.contract_size * row.conversion
    room = equity * config.margin_used_max - account.margin_used - planned
    _limit(item, out, _S_REGIME, lots_within(room, margin), _R_LOT if math.isfinite(planned) else _R_CURRENCY)
    room = currency_room(table, book, held, i, direction, equity * config.currency_exposure_max)
    steps = _limit(item, out, _S_MARGIN, lots_within(room, unit), _R_CURRENCY)
    if steps > 0:
        room = equity * config.regime_position_max[states[i].derived.regime] - book[i].margin
        room -= shared_margin(table, book, held, returns, i, direction, config.correlation_max)
        steps = _limit(item, out, _S_CURRENCY, lots_within(room, margin), _R_CORRELATED)
    if steps > 0:
        most = floor_steps(out.sizes[_S_CORRELATION], item.lot_numerator, item.lot_denominator)
        lots = lots_within_risk(config, item, inputs, book, held, returns, i, direction, unit, equity, most)
        if lots < most * item.lot_numerator / item.lot_denominator:
            return _limit(item, out, _S_CORRELATION, lots, _R_RISK)
        out.sizes[_S_VAR] = out.sizes[_S_CORRELATION]
    return steps


@compiled
def _entry_size(
    config: Record, table: Record, inputs: Record, account: Record, positions: Record, states: Record, memory: Record,
    out: Record, i: int, direction: float, distance: float, returns: np.ndarray,
) -> int:  # fmt: skip
    """Return the lot steps of an entry and fill ``out.sizes``: scalings first, then limits, then the grid."""
    item, row, sizes, equity = table[i], inputs[i], out.sizes, account.equity
    loss_per_lot = _loss_per_lot(config, item, account, row, distance)
    margin = margin_per_lot(row.ask, item.contract_size, row.conversion, item.margin_rate)
    if not (math.isfinite(loss_per_lot) and loss_per_lot > 0.0 and math.isfinite(margin) and margin > 0.0):
        return 0
    wished = _scaled(config, account.time, row, states[i], memory, out, loss_per_lot, equity)
    sizes[_S_RISK] = min(wished, lots_within(equity * config.risk_per_trade_max, loss_per_lot))
    foreign = abs(positions[i].foreign_lots) if math.isfinite(positions[i].foreign_lots) else math.inf
    room = equity * config.regime_position_max[states[i].derived.regime] - foreign * margin
    sizes[_S_REGIME] = min(sizes[_S_RISK], lots_within(room, margin))
    if sizes[_S_KELLY] <= 0.0:
        out.reasons |= _R_EDGE
        return 0
    if _tradable(item, sizes[_S_REGIME]) == 0:
        out.reasons |= _R_LOT
        return 0
    steps = _portfolio_limits(
        config, table, inputs, account, positions, states, out, i, direction, margin, returns
    )  # fmt: skip
    sizes[_S_ROUNDED] = steps * item.lot_numerator / item.lot_denominator
    out.risk_money = sizes[_S_ROUNDED] * loss_per_lot
    return steps


@compiled
def enter(
    configs: Record, table: Record, inputs: Record, accounts: Record, positions: Record, states: Record,
    memories: Record, outs: Record, i: int, returns: np.ndarray,
) -> None:  # fmt: skip
    """Decide the size of an entry of symbol ``i`` that nothing keeps away, and its stop and target."""
    config, item, account, row, memory, out = configs[0], table[i], accounts[0], inputs[i], memories[0], outs[i]
    point = item.point
    own = states[i]
    distance = stop_distance(config, item, row, own.derived.regime, memory) * point
    if distance <= 0.0:
        out.reasons |= _R_STOP
        return
    direction = 1.0 if out.score > 0.0 else -1.0
    price = row.ask if direction > 0.0 else row.bid
    reach = max(math.floor(config.target_atr * row.atr / point), max(item.stops_level_points, 1.0)) * point
    stop, target = to_grid(price - direction * distance, point), to_grid(price + direction * reach, point)
    if stop <= 0.0 or target <= 0.0:
        out.reasons |= _R_STOP
        return
    steps = _entry_size(
        config, table, inputs, account, positions, states, memory, out, i, direction, distance, returns
    )  # fmt: skip
    if steps == 0:
        return
    out.action = _OPEN
    out.target_lots = direction * out.sizes[_S_ROUNDED]
    out.stop = stop
    out.target = target
    out.reasons |= _R_ENTER
    own.entry_bar = row.bar_time
    own.planned_lots = out.target_lots
    own.planned_at = account.time
