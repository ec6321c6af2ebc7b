"""``fx release``: which models answer, which are tried beside them, and the one switch from one to the other."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fx_dagster.commands import console
from fx_dagster.commands.live import attached_settings
from fx_dagster.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fx_dagster.backtest.sequential import PairedRecord, SequentialTest
    from fx_dagster.models.promotion import GateResult, Surroundings
    from fx_dagster.models.release import ReleaseManifest
    from fx_dagster.settings import Settings
    from resources.releases import ReleaseRow, ReleaseStore

FIGURES = ("rows", "accuracy", "majority_accuracy", "break_even_accuracy", "log_loss", "brier", "mean_net_return")
"""Figures of a model that are shown, by their keys in a manifest's metrics."""

_SHARES = ("accuracy", "majority_accuracy", "break_even_accuracy")

VersionArgument = Annotated[int, typer.Argument(min=1, help="Number of the release.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept for good.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Releases of models: what answers, what is tried, promotion and rollback.")
    group.command("list")(list_)
    for command in (show, compare, promote, rollback, stage, retire):
        group.command()(command)
    app.add_typer(group, name="release", no_args_is_help=True, rich_help_panel="Trading")


def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show all releases, newest first, with what they reached on the holdout."""
    store, _ = _opened(home)
    rows = [_listed(store, row) for row in store.list()]
    if as_json:
        console.print_json(rows)
        return
    shown = [
        ("*" if row["live"] else "", row["release"], row["made"][:16], row["stage"], row["feature_hash"][:12],
         _text("accuracy", row["holdout_accuracy"]), _text("log_loss", row["holdout_log_loss"]), row["problem"])
        for row in rows
    ]  # fmt: skip
    console.table(("", "release", "made", "stage", "features", "holdout accuracy", "log-loss", "problem"), shown)
    if not rows:
        console.say("[dim]none yet: fx train, or fx demo[/dim]")


def _listed(store: "ReleaseStore", row: "ReleaseRow") -> dict[str, Any]:
    from fx_dagster.errors import ReleaseError
    from fx_dagster.models.promotion import headline

    listed: dict[str, Any] = {
        "release": row.version, "made": row.created_at.isoformat(), "stage": str(row.stage), "live": row.active,
        "feature_hash": row.feature_hash, "holdout_accuracy": None, "holdout_log_loss": None, "problem": "",
    }  # fmt: skip
    try:
        manifest = store.manifest(row.version)
    except ReleaseError as error:
        return {**listed, "problem": str(error)}
    figures = {f"holdout_{name}": headline(manifest, name) for name in ("accuracy", "log_loss")}
    return {**listed, **figures}


def show(version: VersionArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show a release: signature, what it was trained on, cards of its models, their figures, and its files."""
    store, settings = _opened(home)
    manifest, signature = store.manifest(version), store.signature(version)
    row = next(row for row in store.list() if row.version == version)
    key = signature.key_id if signature else ""
    if as_json:
        import json

        said = {"release": version, "stage": str(row.stage), "live": row.active, "signed_with": key}
        said["files_problem"] = _files_problem(settings, manifest)
        console.print_json({**said, "manifest": json.loads(manifest.to_json())})
        return
    console.out.print(f"Release {version}, {row.stage}, made {manifest.created_at}", markup=False)
    console.out.print(f"signed with key {key}, which is trusted; digest {manifest.digest()[:16]}\n", markup=False)
    console.table(("trained on", ""), [(name, _plain_text(value)) for name, value in manifest.lineage.items()])
    cards = [
        (name, card.get("rows", "–"), card.get("seed", "–"), _plain_text(card.get("parameters", {})))
        for name, card in manifest.cards.items()
    ]
    console.table(("card", "rows", "seed", "parameters"), cards, title="\nModels")
    _show_figures({f"release {version}": manifest})
    problem = _files_problem(settings, manifest)
    files = [(place, digest[:16]) for place, digest in sorted(manifest.files.items())]
    console.table(("file", "SHA-256"), files, title=f"\n{problem or 'All files are the recorded ones'}")


def compare(
    a: Annotated[int, typer.Argument(min=1, help="Number of the champion.")],
    b: Annotated[int, typer.Argument(min=1, help="Number of the challenger.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show two releases side by side and, where both have traded on paper, whether B is ahead of A.

    The verdict may be looked at every day: its error holds over all looks together.
    """
    store, settings = _opened(home)
    manifests = {f"release {version}": store.manifest(version) for version in (a, b)}
    record, test = _evidence(settings, a, b)
    if as_json:
        figures = {name: _figures(manifest) for name, manifest in manifests.items()}
        console.print_json({"a": a, "b": b, "figures": figures, "paired": _paired_document(record, test)})
        return
    _show_figures(manifests)
    if not test.days:
        console.out.print("\nno whole trading day that both have traded on paper", markup=False)
        return
    rows = [
        ("trading days", test.days, test.days), ("closed trades", record.champion_trades, record.challenger_trades),
        ("mean return a day", f"{record.champion.mean():+.4%}", f"{record.challenger.mean():+.4%}"),
    ]  # fmt: skip
    console.table(("", *manifests), rows, title="\nOn paper, the same days")
    console.out.print(f"release {b} is {test}", markup=False)
    if test.truncated:
        console.out.print(f"{test.truncated} days were beyond the bound and count as it", markup=False)


def promote(
    version: VersionArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Overrule costs and the sequential test; needs --reason. Nothing else.")
    ] = False,
    reason: ReasonOption = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a release answer in place of the live one, if every gate lets it through.

    Its files are verified, it is loaded and proved against its recorded answers beside the live release, and then one
    row switches. A session that trades meanwhile never waits and never sees a release that is not ready.
    """
    from fx_dagster.errors import ReleaseError, SettingsError
    from fx_dagster.models.promotion import judge, refusals

    if force and not reason:
        raise SettingsError("--force without a reason", mend='say why: --reason "…"')
    store, settings = _opened(home)
    champion, manifest = store.active(), store.manifest(version)
    if champion == version:
        raise ReleaseError(f"release {version} is live already", mend="fx release list shows where each stands")
    around = _surroundings(settings, manifest, champion)
    results = judge(manifest, around, data_age_days_max=settings.release.data_age_days_max, force=force)
    if not as_json:
        _show_gates(results)
    refused = refusals(results)
    difference = None
    if not refused:
        difference = _serve(settings, manifest)
        store.activate(version, reason=reason or "promoted", gates=results, instead_of=champion)
    if as_json:
        document = {"release": version, "promoted": not refused, "before": champion, "refused": refused}
        gates = [one.to_dict() for one in results]
        console.print_json({**document, "largest_difference": difference, "gates": gates})
        if refused:
            raise typer.Exit(1)
    elif refused:
        raise ReleaseError(f"release {version} is not promoted: {'; '.join(refused)}", mend="the live release goes on")
    else:
        console.say(f"{console.GOOD} Release {version} is live. [dim]fx release rollback goes back[/dim]")


def rollback(reason: ReasonOption = "rollback", home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Go back to the release that was live before; from the next decision on it answers."""
    from fx_dagster.errors import ReleaseError, ServerError

    store, settings = _opened(home)
    before, target = store.active(), store.previous()
    if target is None:
        raise ReleaseError("there is no earlier release to go back to", mend="fx release list shows what there is")
    manifest = store.manifest(target)
    problem = _files_problem(settings, manifest)
    if problem:
        raise ReleaseError(f"release {target} cannot be gone back to: {problem}", mend="fx kill stops new positions")
    try:
        _serve(settings, manifest)
    except ServerError as error:
        # Without a server neither release answers; the one that is live is loaded when it starts.
        console.say(f"{console.WARN} Triton does not answer; release {target} is loaded when it does: {error}")
    store.rollback(reason=reason, to=target)
    if as_json:
        console.print_json({"release": target, "before": before, "reason": reason})
    else:
        console.say(f"{console.GOOD} Release {target} is live again, in place of {before}")


def stage(
    version: VersionArgument, reason: ReasonOption = "staged", home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Let a release be tried in shadow, behind the challengers that are there already."""
    store, _ = _opened(home)
    store.stage(version, reason=reason)
    _say_challengers(store, version, as_json)


def retire(
    version: VersionArgument, reason: ReasonOption = "retired", home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """End a challenger's trial; the next one takes its place."""
    store, _ = _opened(home)
    store.retire(version, reason=reason)
    _say_challengers(store, version, as_json)


def _say_challengers(store: "ReleaseStore", version: int, as_json: bool) -> None:
    challengers = store.challengers()
    if as_json:
        console.print_json({"release": version, "challengers": challengers})
        return
    first = f"release {challengers[0]} has the shadow account" if challengers else "nobody has the shadow account"
    waiting = f", {', '.join(map(str, challengers[1:]))} wait" if challengers[1:] else ""
    console.say(f"{console.GOOD} {first}{waiting}")


def _opened(home: "Path | None") -> "tuple[ReleaseStore, Settings]":
    from resources.postgres import migrate
    from resources.releases import ReleaseStore

    settings = attached_settings(home)
    migrate(settings.postgres.url.get_secret_value())
    return ReleaseStore.of(settings), settings


def _surroundings(settings: "Settings", manifest: "ReleaseManifest", champion: int | None) -> "Surroundings":
    from assets.run_shape import RunShape
    from fx_dagster.backtest.sequential import Verdict
    from fx_dagster.models.promotion import Surroundings
    from resources.market import open_source

    source = open_source(settings.source)
    shape = RunShape.of(source)
    test = None if champion is None else _evidence(settings, champion, manifest.version)[1]
    return Surroundings(
        source=shape.source,
        newest_ns=max((source.span(symbol)[1] for symbol in shape.symbols), default=0),
        feature_hash=shape.catalogue.hash,
        files_problem=_files_problem(settings, manifest),
        better=None if test is None else test.verdict is Verdict.BETTER,
        evidence="" if test is None else str(test),
    )


def _evidence(settings: "Settings", champion: int, challenger: int) -> "tuple[PairedRecord, SequentialTest]":
    """Return the days that both releases traded on paper, whichever was the live one, and what they say."""
    from fx_dagster.backtest.sequential import sequential_test
    from fx_dagster.models.promotion import shadow_account
    from resources.shadow_record import shadow_record

    url, live = settings.postgres.url.get_secret_value(), settings.live.account
    shadow = shadow_account(live)
    record = shadow_record(url, live, shadow, champion=champion, challenger=challenger)
    if not len(record.day):
        record = shadow_record(url, shadow, live, champion=champion, challenger=challenger)
    test = sequential_test(
        record.differences,
        trades=record.challenger_trades,
        trades_min=settings.release.trades_min,
        alpha=settings.release.alpha,
    )
    return record, test


def _files_problem(settings: "Settings", manifest: "ReleaseManifest") -> str:
    from fx_dagster.errors import ReleaseError
    from resources.model_repository import ModelRepository

    try:
        ModelRepository.of(settings).verify(manifest.version, manifest)
    except ReleaseError as error:
        return str(error)
    return ""


def _serve(settings: "Settings", manifest: "ReleaseManifest") -> float | None:
    """Load a release beside the live one and prove its answers; None: there is no Triton in this installation."""
    from resources.servers.triton import read_secret
    from resources.triton import serve_release

    if not settings.triton.url:
        console.say("  [dim]no Triton runs here: nothing is loaded[/dim]")
        return None
    return serve_release(settings.triton.url, read_secret(settings), manifest)


def _show_gates(results: "Sequence[GateResult]") -> None:
    from rich.markup import escape

    for one in results:
        mark = console.GOOD if one.passed else console.WARN if one.forced else console.BAD
        forced = " [dim](overruled)[/dim]" if one.forced else ""
        console.out.print(f"{mark} {one.gate:<16} {escape(one.text)}{forced}", soft_wrap=True)


def _figures(manifest: "ReleaseManifest") -> dict[str, dict[str, dict[str, Any]]]:
    """Return the shown figures of a release by model and by the rows on which it was judged."""
    from fx_dagster.models.promotion import JUDGED_ON

    return {
        model: {
            rows: {name: said[rows].get(name) for name in FIGURES}
            for rows in JUDGED_ON
            if isinstance(said.get(rows), dict)
        }
        for model, said in manifest.metrics.items()
        if isinstance(said, dict)
    }


def _show_figures(manifests: "dict[str, ReleaseManifest]") -> None:
    sides = [_figures(manifest) for manifest in manifests.values()]
    models = list(dict.fromkeys(name for side in sides for name in side))
    shown = []
    for model in models:
        for rows in dict.fromkeys(rows for side in sides for rows in side.get(model, {})):
            for name in FIGURES:
                values = [side.get(model, {}).get(rows, {}).get(name) for side in sides]
                shown.append((model, rows.replace("_", " "), name.replace("_", " "), *(_text(name, v) for v in values)))
    console.table(("model", "rows", "figure", *manifests), shown, title="\nFigures")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if name == "mean_net_return":
        return f"{value:+.5%}"
    return f"{value:.2%}" if name in _SHARES else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _plain_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _paired_document(record: "PairedRecord", test: "SequentialTest") -> dict[str, Any]:
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(test).items()
    }
    return {**plain, "trades_a": record.champion_trades, "trades_b": record.challenger_trades}
