"""``fx explain``: the newest decision about a symbol, with everything that it was made from."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fx_dagster.commands import console
from fx_dagster.commands.live import attached_settings, live_store
from fx_dagster.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from fx_dagster.live.caches import PatternFacts
    from fx_dagster.settings import Settings

SEEN_FROM = 0.5
"""Probability from which a chart pattern counts as seen."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Trading")(explain)


def explain(
    symbol: Annotated[str, typer.Argument(help="Canonical symbol, such as XAUUSD.")],
    home: HomeOption = None,
    account: Annotated[str, typer.Option(help="Account; default: FX_LIVE_ACCOUNT.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Tell why the live session decided as it did on a symbol, the last time.

    Votes of the fourteen indicators, what each model said, what limited the size, which chart patterns were seen and
    what followed them in history. With --json also the features, by name.
    """
    from fx_dagster.errors import DataError

    settings = attached_settings(home)
    store, account = live_store(settings), account or settings.live.account
    decision = store.newest_decision(account, symbol)
    if decision is None:
        others = store.accounts_about(symbol)
        mend = f"--account {others[0]} has" if others else "look at the symbol's name, or start fx up"
        raise DataError(f"account {account} has decided nothing about {symbol}", mend=mend)
    seen = seen_patterns(decision["outcome"].get("models", {}))
    facts = _facts(settings, decision["feature_hash"], symbol, seen)
    if as_json:
        console.print_json(document(settings, decision, seen, facts))
    else:
        _show(decision, seen, facts)


def seen_patterns(models: Mapping[str, Any]) -> dict[str, float]:
    """Return the chart patterns that the network saw, by name, likeliest first, from what a decision's models said."""
    from fx_dagster.models.patterns import PATTERNS

    said = dict(zip(PATTERNS, models.get("patterns") or (), strict=False))
    found = {name: float(chance) for name, chance in said.items() if chance is not None and chance >= SEEN_FROM}
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _facts(settings: "Settings", feature_hash: str, symbol: str, seen: Mapping[str, float]) -> "PatternFacts":
    from resources.cache import SharedCache, pattern_facts, source_of
    from resources.lake import Lake

    cache = SharedCache.of(settings)
    try:
        return pattern_facts(
            cache, Lake(settings.lake_url), feature_hash=feature_hash, source=source_of(settings), symbol=symbol,
            patterns=[*seen, "every_bar"],
        )  # fmt: skip
    finally:
        if cache is not None:
            cache.close()


def document(
    settings: "Settings", decision: Mapping[str, Any], seen: Mapping[str, float], facts: "PatternFacts"
) -> dict[str, Any]:
    """Return everything as one JSON document, the row of features by name where it is of today's catalogue."""
    from dataclasses import asdict

    told = {name: value for name, value in decision.items() if name != "features"}
    return {
        **told,
        "features": _features(settings, decision),
        "patterns_seen": dict(seen),
        "pattern_history": [asdict(fact) for fact in facts],
    }


def _features(settings: "Settings", decision: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the features by name: those of the decision, or where it kept none, the newest that were asked about."""
    import math

    from assets.run_shape import RunShape
    from resources.cache import SharedCache, source_of
    from resources.market import open_source

    catalogue, values = RunShape.of(open_source(settings.source)).catalogue, decision["features"]
    if catalogue.hash != decision["feature_hash"]:
        return {}
    cache = SharedCache.of(settings)
    if not len(values) and cache is not None:
        rows = cache.latest_features(catalogue.hash, source_of(settings), [decision["symbol"]])
        cache.close()
        values = rows[decision["symbol"]].features if rows else values
    if len(values) != len(catalogue.names):
        return {}
    plain = [float(value) if math.isfinite(value) else None for value in values]
    return dict(zip(catalogue.names, plain, strict=True))


def _show(decision: Mapping[str, Any], seen: Mapping[str, float], facts: "PatternFacts") -> None:
    from fx_dagster.live.status import market_time_text

    outcome = decision["outcome"]
    level = f"level {decision['level']}" + (f" ({decision['level_reason']})" if decision["level_reason"] else "")
    release = f"release {decision['release']}" if decision["release"] else "no model asked"
    console.out.print(
        f"[bold]{decision['symbol']}[/bold] {market_time_text(decision['time_ns'])}: [bold]{decision['action']}[/bold]"
        f" · {level} · {release}",
        soft_wrap=True,
    )
    console.table(("what", "says"), _lines(decision, outcome))
    console.table(("indicator", "vote"), [(name, _number(vote)) for name, vote in outcome.get("votes", {}).items()])
    if seen:
        console.table(("chart pattern", "seen"), [(name, f"{chance:.0%}") for name, chance in seen.items()])
    if facts:
        columns = ("in history", "symbol", "times", "rose", "95 % interval", "mean, net long", "net short")
        console.table(columns, [_fact_row(fact) for fact in facts])


def _lines(decision: Mapping[str, Any], outcome: Mapping[str, Any]) -> list[tuple[str, str]]:
    from fx_dagster.decision.codes import Size

    models = {name: value for name, value in outcome.get("models", {}).items() if not isinstance(value, list)}
    told = outcome.get("sizes", {})  # PostgreSQL keeps no order of keys
    sizes = {size.name.lower(): told[size.name.lower()] for size in Size if size.name.lower() in told}
    lines = [
        ("score", _number(decision["score"])),
        ("reasons", ", ".join(outcome.get("reasons", ())) or "none"),
        ("breakers", ", ".join(outcome.get("breakers", ())) or "none"),
        ("validation, confidence", f"{_number(outcome.get('validation'))}, {_number(outcome.get('confidence'))}"),
        ("regime, stage", f"{outcome.get('regime', '')}, {outcome.get('stage', '')}"),
        ("models", _pairs(models)),
        ("weights", _pairs(outcome.get("weights", {}))),
        ("lots, step by step", _pairs(sizes)),
    ]
    return [(name, text) for name, text in lines if text]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    if value is None:
        return "absent"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _fact_row(fact: Any) -> Sequence[str]:
    return (
        fact.pattern.replace("_", " "), fact.symbol or "all", f"{fact.count:,}", f"{fact.share:.1%}",
        f"{fact.low:.1%} to {fact.high:.1%}", f"{fact.long_return * 1e4:+.1f} bp", f"{fact.short_return * 1e4:+.1f} bp",
    )  # fmt: skip
