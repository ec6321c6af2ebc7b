"""How large a position is: from the account's own edge, through scalings and limits, down to the lot grid.

Money is in the account's currency, distances in price, ``conversion`` in account currency per profit currency.
"""

import math
from fractions import Fraction

from fx_dagster.compiled import compiled
from fx_dagster.errors import SettingsError

_STEPS_MAX = 1 << 50
"""Beyond it a float no longer counts in ones; no account trades so much."""
_AVERAGE_LOSS_MIN = 0.1
"""An average loss below a tenth of the risked money would let Kelly's fraction explode."""


def lot_grid(lot_step: float) -> tuple[int, int]:
    """Return the lot step as an exact fraction: 0.01 → (1, 100).

    Raises:
        SettingsError: it is not a positive finite number.
    """
    if not (math.isfinite(lot_step) and lot_step > 0):
        raise SettingsError(f"lot_step is {lot_step}", mend="give the broker's volume step, above 0")
    exact = Fraction(str(lot_step))
    return exact.numerator, exact.denominator


@compiled
def floor_steps(lots: float, numerator: int, denominator: int) -> int:
    """Return how many whole lot steps (``numerator / denominator``) fit into ``lots``, as decimal arithmetic would.

    ``floor(0.29 / 0.01)`` is 28 in binary; here each candidate ``k`` is compared as the float nearest to the decimal
    ``k × step``, which is what a decimal number of up to 15 digits is read as, so that the answer is 29.
    """
    if not math.isfinite(lots) or lots <= 0.0:
        return 0
    ratio = lots * denominator / numerator
    if ratio >= _STEPS_MAX:
        return _STEPS_MAX
    steps = math.floor(ratio)
    while steps > 0 and steps * numerator / denominator > lots:
        steps -= 1
    while (steps + 1) * numerator / denominator <= lots:
        steps += 1
    return steps


@compiled
def tradable_steps(lots: float, numerator: int, denominator: int, least: int, most: int) -> int:
    """Return the lot steps to trade: rounded down, at most ``most``; 0 where that is below ``least``."""
    steps = min(floor_steps(lots, numerator, denominator), most)
    return steps if steps >= least else 0


@compiled
def kelly(win_rate: float, payoff: float) -> float:
    """Return Kelly's fraction of a bet that wins ``payoff`` with ``win_rate`` and else loses 1 (Kelly 1956); ≥ 0."""
    if payoff <= 0.0:
        return 0.0
    return max(win_rate - (1.0 - win_rate) / payoff, 0.0)


@compiled
def kelly_risk(trades: int, wins: int, gain_sum: float, loss_sum: float, trades_min: int, fraction: float) -> float:
    """Return the fraction of equity to risk at the stop, from closed trades; 0 while no edge is known.

    Win rate and payoff are those of results over money at risk. The win rate is shrunk towards the one without edge
    by ``trades_min`` imaginary trades, which multiplies Kelly's fraction by ``trades / (trades + trades_min)``.

    Args:
        trades: closed trades; ``wins`` of them with a gain.
        wins: winning trades.
        gain_sum: sum of gains over risk, ≥ 0.
        loss_sum: sum of losses over risk, ≥ 0.
        trades_min: fewer trades than this say nothing.
        fraction: share of full Kelly.
    """
    losses = trades - wins
    if trades < trades_min or wins == 0 or gain_sum <= 0.0:
        return 0.0
    average_loss = _AVERAGE_LOSS_MIN
    if losses > 0:
        average_loss = max(loss_sum / losses, _AVERAGE_LOSS_MIN)
    full = kelly(wins / trades, gain_sum / wins / average_loss)
    return fraction * full * trades / (trades + trades_min) / average_loss


@compiled
def volatility_scale(volatility: float, target: float, least: float, most: float) -> float:
    """Return target over present volatility within bounds; 1 where volatility is not known."""
    if not math.isfinite(volatility) or volatility <= 0.0:
        return min(max(1.0, least), most)
    return min(max(target / volatility, least), most)


@compiled
def confidence_scale(confidence: float, factor: float, most: float) -> float:
    """Return ``min(confidence × factor, most)``; 0 where confidence is no probability."""
    if not (math.isfinite(confidence) and 0.0 <= confidence <= 1.0):
        return 0.0
    return min(confidence * factor, most)


@compiled
def value_of_distance(distance: float, contract_size: float, conversion: float) -> float:
    """Return what a price move of ``distance`` is worth for one lot, in the account's currency."""
    return distance * contract_size * conversion


@compiled
def margin_per_lot(price: float, contract_size: float, conversion: float, margin_rate: float) -> float:
    """Return the margin that one lot binds, in the account's currency."""
    return price * contract_size * conversion * margin_rate


@compiled
def lots_within(money: float, money_per_lot: float) -> float:
    """Return the lots that ``money`` allows; 0 where either is not positive."""
    if not (money > 0.0 and money_per_lot > 0.0):
        return 0.0
    return money / money_per_lot


@compiled
def to_grid(price: float, point: float) -> float:
    """Return ``price`` on the grid of points, as the float nearest to that decimal."""
    per_unit = round(1.0 / point)
    if per_unit >= 1:
        return round(price * per_unit) / per_unit
    return round(price / point) * point


@compiled
def stop_points(atr: float, stop_atr: float, price: float, share_max: float, point: float) -> float:
    """Return the stop distance in whole points: ``stop_atr`` × ATR, never beyond ``share_max`` of price; 0: unknown."""
    if not (math.isfinite(atr) and atr > 0.0):
        return 0.0
    # The tiny allowance undoes binary noise (0.0050 / 0.00001 = 499.99…); it never crosses a whole point.
    return math.floor(min(stop_atr * atr, share_max * price) / point + 1e-9)
