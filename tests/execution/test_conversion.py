import numpy as np
import pytest

from fx_dagster.errors import SettingsError
from fx_dagster.execution.conversion import conversion_path, conversion_paths, converted
from fx_dagster.market.instruments import instrument

ITEMS = [instrument(symbol) for symbol in ("EURUSD", "USDJPY", "EURGBP", "XAUUSD")]
PRICE = {"EURUSD": 1.08, "USDJPY": 150.0, "EURGBP": 0.85, "XAUUSD": 2_000.0}


@pytest.mark.parametrize(
    ("currency", "account", "rate"),
    [("USD", "USD", 1.0), ("JPY", "USD", 1 / 150), ("GBP", "USD", 1.08 / 0.85), ("GBP", "JPY", 1.08 / 0.85 * 150),
     ("USD", "EUR", 1 / 1.08)],
)  # fmt: skip
def test_rates(currency, account, rate):
    assert converted(conversion_path(currency, account, ITEMS), PRICE, 1.0) == pytest.approx(rate)


def test_arrays_convert_alike():
    path = conversion_path("GBP", "USD", ITEMS)
    prices = {symbol: np.array([price, 2 * price]) for symbol, price in PRICE.items()}
    np.testing.assert_allclose(converted(path, prices, np.ones(2)), 1.08 / 0.85)


def test_the_shortest_way_is_taken():
    items = [*ITEMS, instrument("GBPUSD")]
    assert conversion_path("GBP", "USD", items) == (("GBPUSD", True),)


def test_what_cannot_be_converted_is_named_with_the_mend():
    with pytest.raises(SettingsError, match=r"GBP into the account's USD.*GBPUSD"):
        conversion_paths([instrument("EURGBP")], "USD")
