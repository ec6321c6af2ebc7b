"""``fx ab``: two sets of settings of the decision step over the lake's history, each with an account of its own."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, source_overrides

if TYPE_CHECKING:
    from fx_dagster.backtest.ab import Comparison
    from fx_dagster.settings import Settings

COMPARABLE = ("FX_RISK_", "FX_COST_")
"""Settings that the step reads; all others would change the history, or nothing."""

SHARED = ("FX_RISK_ACCOUNT_CURRENCY", "FX_RISK_INITIAL_BALANCE", "FX_RISK_LEVERAGE")
"""Settings of the account, which is the same for both."""

_SHARES = ("net_return", "mean_annual_return", "max_drawdown", "win_rate")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Data and evaluation")(ab)


def ab(
    a: Annotated[list[str] | None, typer.Option("--a", help="NAME=VALUE of a setting for A; may be repeated.")] = None,
    b: Annotated[list[str] | None, typer.Option("--b", help="The same for B.")] = None,
    source: Annotated[str, typer.Option(help="Source whose lake is read; default: FX_SOURCE_KIND.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder with the files of mt5_export or histdata.")] = None,
    symbols: Annotated[str, typer.Option(help="Comma-separated symbols; default: all that the source has.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay two sets of settings over the same history, and say whether one is ahead.

    The settings are FX_RISK_ and FX_COST_ ones, as in `fx ab --a FX_RISK_COMBINE=parallel --b FX_RISK_COMBINE=hybrid`;
    what is not given is as it is set. Differences have paired stationary block-bootstrap intervals; without an interval
    that leaves zero out, nothing is settled. Needs what `fx backtest` needs.
    """
    from assets.history import RESUME_AFTER_HOURS, read_history
    from assets.run_shape import RunShape
    from fx_dagster.backtest.ab import compare, replay_both
    from fx_dagster.decision.config import paper_config
    from fx_dagster.settings import load_settings
    from resources.lake import Lake
    from resources.market import open_source

    given = {"A": overrides(a or []), "B": overrides(b or [])}
    settings = load_settings(source_overrides(source, data, symbols, home))
    shape = RunShape.of(open_source(settings.source))
    with console.step("Reading the lake") as step:
        history = read_history(Lake(settings.lake_url), shape, settings)
        step.result = f"{len(history.market.time):,} bars"
    first, second = (paper_config(settings_with(changes), history.timeframe) for changes in given.values())
    with console.step("Replaying A and B"):
        results = replay_both(
            history,
            first,
            second,
            initial_balance=settings.risk.initial_balance,
            leverage=settings.risk.leverage,
            resume_after_hours=RESUME_AFTER_HOURS,
        )
    with console.step("Resampling their days"):
        found = compare(*results, seed=settings.training.seed)
    if as_json:
        console.print_json(_document(given, found))
    else:
        _show(given, found)


def overrides(pairs: list[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as settings.

    Raises:
        SettingsError: a text is no pair, or the setting is not one that the step reads.
    """
    from fx_dagster.errors import SettingsError

    given = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise SettingsError(f"{pair!r} is no setting", mend="write NAME=VALUE, as in FX_RISK_COMBINE=parallel")
        if not name.startswith(COMPARABLE):
            raise SettingsError(f"{name} cannot differ between A and B", mend="give FX_RISK_ and FX_COST_ settings")
        if name in SHARED:
            raise SettingsError(f"{name} is the account's, the same for A and B", mend="set it in the environment")
        given[name] = value
    return given


def settings_with(changes: Mapping[str, str]) -> "Settings":
    """Return the settings with some of them changed; this process's environment stays as it is.

    Raises:
        SettingsError: a setting is unknown or impossible.
    """
    from fx_dagster.settings import load_settings

    before = {name: os.environ.get(name) for name in changes}
    try:
        return load_settings(changes)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _document(given: Mapping[str, Mapping[str, str]], found: "Comparison") -> dict[str, object]:
    sides = {
        side: {"settings": dict(changes), "metrics": {name: _plain(value) for name, value in metrics.items()}}
        for (side, changes), metrics in zip(given.items(), (found.a, found.b), strict=True)
    }
    differences = {
        name: {"value": _plain(one.value), "low": _plain(one.low), "high": _plain(one.high)}
        for name, one in found.differences.items()
    }
    numbers = {"days": found.days, "level": found.level, "block_days": found.block_days}
    return {**sides, **numbers, "differences": differences, "verdict": str(found.verdict)}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _show(given: Mapping[str, Mapping[str, str]], found: "Comparison") -> None:
    for side, changes in given.items():
        said = ", ".join(f"{name}={value}" for name, value in changes.items()) or "as set"
        console.out.print(f"{side}: {said}", markup=False)
    rows = []
    for name, one in found.differences.items():
        values = _text(name, found.a[name]), _text(name, found.b[name])
        ends = [_text(name, end, sign=True) for end in (one.low, one.high)]
        interval = " to ".join(ends) if one.has_interval else "–"
        rows.append((name.replace("_", " "), *values, _text(name, one.value, sign=True), interval))
    console.table(("", "A", "B", "A less B", f"{found.level:.0%} interval"), rows)
    console.out.print(f"{found.verdict}, by the daily returns of {found.days:,} days after costs", markup=False)


def _text(name: str, value: float, *, sign: bool = False) -> str:
    if not math.isfinite(value):
        return "–"
    kind = ".2%" if name in _SHARES else ",.0f" if name == "trades" else ",.2f"
    return f"{value:{'+' if sign else ''}{kind}}"
