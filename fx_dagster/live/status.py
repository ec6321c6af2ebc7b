"""The engine's status as a person and the heartbeat see it: plain JSON values."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fx_dagster.decision.codes import Level
from fx_dagster.execution.orders import Account

LEVEL_NAMES = {
    Level.UNSET: "none yet",
    Level.FULL_AI: "full AI",
    Level.SIMPLE_AI: "traditional + simple AI",
    Level.TRADITIONAL: "traditional only",
    Level.EMERGENCY: "emergency",
}


@dataclass
class Counters:
    """What a session has traded so far; part of every checkpoint."""

    orders: int = 0
    deals: int = 0


def market_time_text(time_ns: int) -> str:
    """Return market time in ISO 8601, UTC, whole seconds."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, tz=UTC).isoformat().replace("+00:00", "Z")


def account_status(account: Account, positions: int) -> dict[str, Any]:
    """Return the account's part."""
    return {
        "equity": round(account.equity, 2),
        "balance": round(account.balance, 2),
        "currency": account.currency,
        "positions": positions,
    }


def level_status(level: int, reason: str) -> dict[str, Any]:
    """Return the fallback level's part."""
    return {"level": level, "level_name": LEVEL_NAMES[Level(level)], "level_reason": reason}
