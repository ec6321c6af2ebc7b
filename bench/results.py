"""``python -m bench.results``: write ``docs/results.md`` from a home in which ``fx train`` was run.

Everything on the page is read from what the run wrote: the release's manifest, the comparison, the backtest and the
review of trials. Only rows that no model had seen count; nothing is computed anew and nothing is left out.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from assets.comparison import COMPARISON, LUCK_MAX
from assets.evaluation import SUMMARY
from assets.trials import REVIEW
from fx_dagster.backtest.trial_review import TrialReview
from fx_dagster.commands.options import source_overrides
from fx_dagster.models.evaluate import Metrics
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.report.measures import success_measures
from fx_dagster.report.statistics import summarise_model
from fx_dagster.report.summary import BacktestSummary, Measure, ModelSummary
from fx_dagster.settings import Settings, load_settings
from resources.model_repository import ModelRepository

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"
GOLD = "XAUUSD"


def main(
    home: Annotated[Path, typer.Argument(help="FX_HOME of the run.")],
    source: Annotated[str, typer.Option(help="Source of the run.")] = "sample",
    data: Annotated[Path | None, typer.Option(help="Its folder, where it has one.")] = None,
    took: Annotated[str, typer.Option(help="How long the run took, as it was measured.")] = "",
    command: Annotated[str, typer.Option(help="The command of the run.")] = "fx train",
) -> None:
    """Write docs/results.md."""
    settings = load_settings(source_overrides(source, data, "", home))
    repository = ModelRepository.of(settings)
    manifest = repository.manifest(repository.versions()[-1])
    PAGE.write_text(page(settings, manifest, command, took), encoding="utf-8")


def page(settings: Settings, manifest: ReleaseManifest, command: str, took: str) -> str:
    """Return the page."""
    found = json.loads((settings.evaluation / COMPARISON).read_text())
    backtest = BacktestSummary.model_validate_json((settings.evaluation / SUMMARY).read_text())
    review = TrialReview.model_validate_json((settings.evaluation / REVIEW).read_text())
    parts = [
        _introduction(manifest, backtest, command, took),
        "## What is better than what\n\n" + _bullets(verdicts(found, manifest, backtest)),
        "## Direction: every model on the same unseen bars\n\n" + _models(found["models"]),
        "## The holdout\n\n" + _holdout(manifest),
        "## Direction by symbol\n\n" + _symbols(found["by_symbol"]),
        "## Models against each other\n\n" + _losses(found["losses"]),
        "## Ways to trade, after costs\n\n" + _candidates(found, backtest),
        "## Agents against fixed sizing\n\n" + _agents(manifest),
        "## INT8\n\n" + _int8(manifest),
        "## How much of it is luck\n\n" + _review(review),
        "## Success measures\n\n" + _measures(success_measures(_summaries(manifest), backtest, None)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _introduction(manifest: ReleaseManifest, backtest: BacktestSummary, command: str, took: str) -> str:
    day = datetime.now(UTC).date().isoformat()
    lines = [
        ("written", day),
        ("command", f"`{command}`" + (f", {took}" if took else "")),
        ("symbols", ", ".join(manifest.symbols)),
        ("release", f"{manifest.version}, features {manifest.feature_hash[:12]}"),
        ("backtest", f"{backtest.start:%Y-%m-%d} to {backtest.end:%Y-%m-%d}"),
    ]
    text = (
        "# Results on real hours\n\n"
        "Written by `python -m bench.results` from the run named below. Models are judged on bars of walk-forward folds"
        " that they were not fitted on, purged by the label's horizon and embargoed; intervals are 95 %, by blocks of"
        " time. Currencies and gold by the hour are close to a coin toss: an accuracy of 50 to 53 % is what honest"
        " models reach here, and what counts is whether it clears the commoner direction and the costs."
    )
    return f"{text}\n\n{_table(('', ''), lines)}"


def verdicts(found: Mapping[str, Any], manifest: ReleaseManifest, backtest: BacktestSummary) -> list[str]:
    """Return what these figures settle and what they do not, in sentences."""
    told = [_model_verdict(row) for row in found["models"]]
    ahead = [row["candidate"] for row in found["candidates"] if row["verdict"] == "better"]
    behind = [row["candidate"] for row in found["candidates"] if row["verdict"] == "worse"]
    told.append(f"Ways to trade that beat the traditional control beyond chance: {', '.join(ahead) or 'none'}.")
    told.append(f"Ways that are worse than it beyond chance: {', '.join(behind) or 'none'}.")
    idle = [row["candidate"] for row in found["candidates"] if not row["trades"]]
    if set(idle) & set(ahead):
        told.append(
            f"Of these, {', '.join(idle)} never traded: to beat the control by staying out is to save its costs, not to"
            " foresee anything. The next two lines ask for more."
        )
    gains = [row["candidate"] for row in found["candidates"] if (row["annual_low"] or 0.0) > 0.0]
    told.append(f"Ways whose return a year is above zero with its whole interval: {', '.join(gains) or 'none'}.")
    nothing = found["best_against_nothing"]
    if nothing is not None:
        settled = "is" if nothing < LUCK_MAX else "is not"
        told.append(
            f"That the best of all {len(found['candidates'])} ways earns more than not trading {settled} settled"
            f" (Hansen's test, p = {nothing:.3f})."
        )
    verdict = manifest.metrics.get("ppo", {}).get("against_fixed_sizing", {}).get("verdict")
    if verdict:
        told.append(f"Agents: {verdict}")
    told.append(
        f"The whole system made {_percent(backtest.system.net_return)} after costs, the control"
        f" {_percent(backtest.control.net_return)}."
    )
    return told


def _model_verdict(row: Mapping[str, Any]) -> str:
    bar = max(row["majority_accuracy"], row["break_even_accuracy"])
    higher = "cost of a trade" if row["break_even_accuracy"] > row["majority_accuracy"] else "commoner direction"
    direction = (
        "is above the commoner direction with its whole interval"
        if row["accuracy_low"] > row["majority_accuracy"]
        else "is not above the commoner direction beyond chance"
    )
    pays = "and clears" if row["accuracy_low"] > bar else "and does not clear"
    loss = "better" if row["log_loss"] < row["base_log_loss"] else "worse"
    return (
        f"**{row['model']}** {direction}, {pays} the {higher} ({_percent(bar)}); its log-loss is {loss} than that"
        " of always saying the share of rises."
    )


def _models(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = ("model", "bars", "right", "95 %", "commoner", "break-even", "log-loss", "of base rate", "Brier", "ECE")
    return _table(
        columns,
        [
            (
                row["model"], f"{row['rows']:,}", _percent(row["accuracy"]), _between(row),
                _percent(row["majority_accuracy"]), _percent(row["break_even_accuracy"]), f"{row['log_loss']:.4f}",
                f"{row['base_log_loss']:.4f}", f"{row['brier']:.4f}", f"{row['calibration_error']:.4f}",
            )
            for row in rows
        ],
    )  # fmt: skip


def _holdout(manifest: ReleaseManifest) -> str:
    told = {name: metrics["holdout"] for name, metrics in manifest.metrics.items() if "holdout" in metrics}
    text = (
        "The last part of history, which no fold touches; the released models, which stop before it, are judged on it"
        " once.\n\n"
    )
    return text + _models([{"model": name, **found} for name, found in told.items()])


def _int8(manifest: ReleaseManifest) -> str:
    text = (
        "Every release tries its networks in INT8 and serves that only where it is at least 75 % smaller, twice as fast"
        " and leaves 99.5 % of decisions as they are. Networks of this size are mostly operators that have no 8-bit"
        " form, scales and the graph itself.\n\n"
    )
    columns = ("network", "bytes", "in INT8", "smaller", "faster, 1 row", "faster, 100 rows", "unchanged", "served")
    rows = [
        (
            name, f"{found['bytes']:,}", f"{found['int8_bytes']:,}", _percent(found["smaller"]),
            f"{found['faster_one']:.2f}×", f"{found['faster_many']:.2f}×", _percent(found["unchanged"]),
            "INT8" if found["served"] else "FP32",
        )
        for name, found in ((name, metrics.get("int8")) for name, metrics in manifest.metrics.items())
        if found
    ]  # fmt: skip
    return text + _table(columns, rows)


def _symbols(rows: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda row: (row["symbol"] != GOLD, row["symbol"]))
    return _table(
        ("symbol", "model", "bars", "right", "95 %", "commoner", "break-even"),
        [
            (
                row["symbol"], row["model"], f"{row['rows']:,}", _percent(row["accuracy"]), _between(row),
                _percent(row["majority_accuracy"]), _percent(row["break_even_accuracy"]),
            )
            for row in ordered
        ],
    )  # fmt: skip


def _losses(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Nothing to compare."
    names = [name for name in rows[0] if name is not None]
    text = "Differences of log-loss, below 0: the first is better; Diebold and Mariano's test.\n\n"
    return text + _table(names, [tuple(_cell(row[name]) for name in names) for row in rows])


def _candidates(found: Mapping[str, Any], backtest: BacktestSummary) -> str:
    luck = found["best_by_luck"]
    said = "too few days to tell" if luck is None else "below 0.001" if luck < 0.001 else f"{luck:.3f}"
    text = (
        f"The same bars, costs and risk rules; {backtest.initial_balance:,.0f} {backtest.currency} at the start."
        f" P-value of the best one's lead over the control, all of them counted (Hansen): {said}.\n\n"
    )
    columns = (
        "way", "net return", "a year", "Sharpe", "drawdown", "trades won", "trades", "a year against control",
        "against control",
    )  # fmt: skip
    rows = []
    for row in found["candidates"]:
        rows.append(
            (
                row["candidate"], _percent(row["net_return"]),
                _annual(row, "annual_return", "annual_low", "annual_high"),
                _cell(row["sharpe"]), _percent(row["max_drawdown"]),
                _percent(row["win_rate"]), _cell(row["trades"]),
                _annual(row, "annual_difference", "low", "high"), row["verdict"],
            )
        )  # fmt: skip
    return text + _table(columns, rows)


def _annual(row: Mapping[str, Any], value: str, low: str, high: str) -> str:
    if row[value] is None:
        return ""
    return f"{_percent(row[value])}" + ("" if row[low] is None else f" ({_percent(row[low])} to {_percent(row[high])})")


def _agents(manifest: ReleaseManifest) -> str:
    told = manifest.metrics.get("ppo", {}).get("against_fixed_sizing", {})
    if "difference" not in told:
        return str(told.get("verdict", "There are no agents in this release."))
    compared: Mapping[str, Mapping[str, Any]] = {"fixed": told["fixed"]} | {
        f"seed {seed['seed']}": seed["agents"] for seed in told["seeds"]
    }
    names = list(told["fixed"])
    interval = f"{_percent(told['difference'])} a year ({_percent(told['low'])} to {_percent(told['high'])})"
    text = f"{told['verdict']} Difference of log returns: {interval}, {told['days']} later days.\n\n"
    rows = [(name, *(_cell(values[one]) for one in names)) for name, values in compared.items()]
    return text + _table(("sizing", *names), rows)


def _review(review: TrialReview) -> str:
    return _table(("", ""), [(name.replace("_", " "), _cell(value)) for name, value in review.model_dump().items()])


def _summaries(manifest: ReleaseManifest) -> list[ModelSummary]:
    return [summarise_model(name, Metrics.from_dict(manifest.metrics[name]["out_of_fold"])) for name in manifest.models]


def _measures(measures: Sequence[Measure]) -> str:
    words = {True: "met", False: "not met", None: "not measurable"}
    rows = []
    for measure in measures:
        value = "" if measure.value is None else f"{measure.value:.4g} {measure.unit}"
        between = "" if measure.interval is None else f"{measure.interval.low:.4g} to {measure.interval.high:.4g}"
        rows.append((measure.name, value, between, measure.target, words[measure.met], measure.why))
    return _table(("measure", "value", "95 %", "target", "", "why"), rows)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}".replace("%", " %")


def _between(row: Mapping[str, Any]) -> str:
    return f"{_percent(row['accuracy_low'])} to {_percent(row['accuracy_high'])}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="python -m bench.results")
