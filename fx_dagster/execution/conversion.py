"""Exchange of profit currencies into the account's currency, through the symbols at hand."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import SettingsError
from fx_dagster.market.instruments import Instrument

Rate = TypeVar("Rate", float, NDArray[np.float64])
Leg = tuple[str, bool]
"""A symbol, and whether one multiplies by its price (else divides)."""


def conversion_path(currency: str, account_currency: str, instruments: Sequence[Instrument]) -> tuple[Leg, ...]:
    """Return the fewest symbols that turn ``currency`` into ``account_currency``; none where they are the same.

    Raises:
        SettingsError: the symbols at hand do not connect the two currencies.
    """
    edges: dict[str, list[tuple[str, Leg]]] = {}
    for item in instruments:
        edges.setdefault(item.base_currency, []).append((item.profit_currency, (item.symbol, True)))
        edges.setdefault(item.profit_currency, []).append((item.base_currency, (item.symbol, False)))
    paths: dict[str, tuple[Leg, ...]] = {currency: ()}
    queue = deque([currency])
    while queue:
        here = queue.popleft()
        if here == account_currency:
            return paths[here]
        for there, leg in edges.get(here, []):
            if there not in paths:
                paths[there] = (*paths[here], leg)
                queue.append(there)
    raise SettingsError(
        f"no symbol at hand turns {currency} into the account's {account_currency}",
        mend=f"add {currency}{account_currency} or {account_currency}{currency} to the symbols, "
        f"or set FX_RISK_ACCOUNT_CURRENCY={currency}",
    )


def conversion_paths(instruments: Sequence[Instrument], account_currency: str) -> dict[str, tuple[Leg, ...]]:
    """Return the path of each symbol's profit currency.

    Raises:
        SettingsError: a currency cannot be converted.
    """
    return {item.symbol: conversion_path(item.profit_currency, account_currency, instruments) for item in instruments}


def converted(path: Sequence[Leg], price: Callable[[str], Rate] | Mapping[str, Rate], one: Rate) -> Rate:
    """Return account currency per unit: the product of the path's prices.

    Args:
        path: from :func:`conversion_path`.
        price: mid price by symbol, a number or an array.
        one: 1, in the shape of the result.
    """
    lookup = price if callable(price) else price.__getitem__
    rate = one
    for symbol, multiply in path:
        rate = rate * lookup(symbol) if multiply else rate / lookup(symbol)
    return rate
