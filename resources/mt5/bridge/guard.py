"""Whether the terminal is on the account that was meant, and whether programs may trade there."""

from dataclasses import dataclass
from typing import Any

from resources.mt5.constants import Mt5Constants as Mt5

_MODES = {
    Mt5.ACCOUNT_TRADE_MODE_DEMO: "demo", Mt5.ACCOUNT_TRADE_MODE_CONTEST: "contest", Mt5.ACCOUNT_TRADE_MODE_REAL: "real",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expected:
    """The account that was meant: login, the broker's server, ``demo`` or ``real``."""

    login: str
    server: str
    mode: str


def mode_of(account: Any) -> str:
    """Return demo, contest, real, or what the terminal says that is none of them."""
    return _MODES.get(int(account.trade_mode), f"unknown ({account.trade_mode})")


def wrong_account(account: Any, expected: Expected) -> str:
    """Return what of the account is not as expected, with the setting's name; empty: all is."""
    found = (
        ("FX_BRIDGE_LOGIN", expected.login, str(account.login)),
        ("FX_BRIDGE_SERVER", expected.server, str(account.server)),
        ("FX_BRIDGE_MODE", expected.mode, mode_of(account)),
    )
    wrong = [f"{name} says {wanted}, the terminal is on {seen[:64]}" for name, wanted, seen in found if wanted != seen]
    return "; ".join(wrong)


def trading_refused(account: Any, terminal: Any) -> str:
    """Return why programs may not trade now; empty: they may."""
    reasons = (
        (not terminal.connected, "the terminal is not connected to the broker"),
        (not terminal.trade_allowed, "automated trading is switched off in the terminal"),
        (bool(terminal.tradeapi_disabled), "trading from Python is switched off in the terminal"),
        (not account.trade_allowed, "the broker does not let this account trade"),
        (not account.trade_expert, "the broker does not let programs trade this account"),
    )
    return "; ".join(text for holds, text in reasons if holds)
