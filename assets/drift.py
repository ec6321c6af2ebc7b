"""Whether what the live session sees, and what its models say, is still what they learned on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.features import labels
from assets.metadata import frame_table, picture
from assets.serving import served_release
from fx_dagster.market.timeframes import DAY_NS
from fx_dagster.models.answer import DIRECTIONS, SIMPLE_MODELS
from fx_dagster.models.drift import (
    REFERENCE,
    FeatureDrift,
    PredictionDrift,
    PredictionReference,
    TrainingReference,
    judge_features,
    judge_predictions,
)
from fx_dagster.models.evaluate import CalibrationBin, calibration_table
from fx_dagster.models.protocol import Float32
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, SettingsResource
from resources.drift_store import DriftMeasurement, DriftStore
from resources.lake import Lake
from resources.live_store import LiveStore
from resources.postgres import migrate
from resources.releases import ReleaseStore

GROUP = "drift"
OWNERS = ["team:research"]
FEATURES = "drift_features"
PREDICTIONS = "drift_predictions"
NAMED_MAX = 5

WHY = "why"
"""In a table's texts: why nothing could be told."""

DRIFT = "drift"
"""In a check's metadata: how much has drifted, 0 … 1; ``drift_sensor`` reads it."""


@dataclass(frozen=True)
class LiveWindow:
    """The newest decisions of an account, and the release that is active.

    Attributes:
        release: manifest of the release that they are compared with.
        rows: as :meth:`resources.live_store.LiveStore.decided_rows` returns them.
        X: their features, float32 ``[n, F]``.
        clock: market time (ns UTC) that the session has reached: what ends later is not known yet.
    """

    release: ReleaseManifest
    rows: pd.DataFrame
    X: Float32
    clock: int

    @property
    def importance(self) -> dict[str, float]:
        """Mean share of each feature in the answers of those of the release's models that look at features."""
        shares = [self.release.cards[model]["importance"] for model in SIMPLE_MODELS]
        return {name: float(np.mean([share[name] for share in shares])) for name in self.release.feature_names}

    def said(self, model: str) -> pd.DataFrame:
        """Return what a model of this release said: ``symbol, time, p_up``."""
        rows = self.rows[self.rows["release"] == self.release.version]
        place = DIRECTIONS.index(model)
        p_up = np.array([said[place] for said in rows["p_up"]], dtype=np.float64)
        return rows[["symbol", "time"]].assign(p_up=p_up).dropna(ignore_index=True)


def live_window(settings: Settings, lake: Lake) -> LiveWindow | str:
    """Return the decisions of the trailing window; or, in words, why there is nothing to tell."""
    url, account = settings.postgres.url.get_secret_value(), settings.live.account
    if not url:
        return "FX_POSTGRES_URL is not set: no live session is recorded"
    migrate(url)
    releases, store = ReleaseStore.of(settings), LiveStore(url)
    version, session = releases.active(), store.last_session(account)
    if version is None:
        return "no release is active"
    if session is None:
        return f"account {account} has had no live session yet"
    release = releases.manifest(version)
    if not all(lake.keys(table) for table in _references(release)):
        return f"release {version} has no training reference in this lake: the next training keeps one"
    rows, X = store.decided_rows(
        account,
        feature_hash=release.feature_hash,
        since=session.clock - int(settings.drift.window_days * DAY_NS),
        until=session.clock,
        rows_max=settings.drift.rows_max,
    )
    return _too_few(rows, settings) or LiveWindow(release, rows, X, session.clock)


def _references(release: ReleaseManifest) -> list[str]:
    """Return the tables that the release's models name; one that is never there where none names any."""
    named = [release.metrics[model][REFERENCE]["table"] for model in referenced(release)]
    return named or [REFERENCE]


def referenced(release: ReleaseManifest) -> tuple[str, ...]:
    """Return the direction models that know what they learned on; those that stand on others do not."""
    return tuple(model for model in release.models if REFERENCE in release.metrics[model])


def _too_few(rows: pd.DataFrame, settings: Settings) -> str:
    bars, least = rows["time"].nunique(), settings.drift.bars_min
    if bars >= least:
        return ""
    return f"too few live rows to tell: {bars} bars of {settings.drift.window_days:g} days, {least} are needed"


def known_outcomes(lake: Lake, said: pd.DataFrame, clock: int) -> pd.DataFrame:
    """Return those of ``symbol, time, p_up`` whose label had ended at ``clock`` (ns UTC), with ``up, end_time``."""
    parts = [said.head(0).assign(up=np.int8(0), end_time=np.int64(0))]
    for symbol, rows in said.groupby("symbol"):
        found = lake.read(
            "labels", symbol=str(symbol), start=int(rows["time"].min()), end=clock, columns=["time", "up", "end_time"]
        )
        parts.append(rows.merge(found[found["end_time"] <= clock], on="time"))
    return pd.concat(parts, ignore_index=True).sort_values(["time", "symbol"], ignore_index=True)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "scikitlearn"},
    deps=[served_release, "live_session"],
    description="""The features that the live session has decided on, beside those that the active release learned on.

Population stability index and Kolmogorov-Smirnov distance of every feature, and how near each row lies to the training
rows, over a trailing window of recorded decisions at bars' closes. A feature has drifted where its index is beyond any
that a window of the same length in the training set shows.

What is measured is also a row of the table `drift`, which the live session reads: from `FX_RISK_DRIFT_MAX` on its
decisions give the models less weight, and at `FX_RISK_DRIFT_STRONG` none.""",
)
def feature_drift(lake: LakeResource, settings: SettingsResource) -> dg.MaterializeResult:
    """Compare the newest decisions' features with the training set, and tell the live session."""
    chosen, store = settings.load(), lake.open()
    window = live_window(chosen, store)
    if isinstance(window, str):
        return _nothing(store, FEATURES, window)
    table = _references(window.release)[0]
    reference = TrainingReference.from_table(store.read(table), store.metadata(table))
    time = window.rows["time"].to_numpy(np.int64)
    found = judge_features(reference, window.importance, window.X, time, psi_min=chosen.drift.psi_min)
    store.write(
        FEATURES,
        found.features,
        metadata=_verdicts(
            moved=(found.moved, _say_moved(found)), strange=(found.strange, _say_strange(found, reference))
        ),
    )
    _tell_session(chosen, window, found.drift)
    return dg.MaterializeResult(metadata={"release": window.release.version, **_feature_metadata(found)})


def _tell_session(settings: Settings, window: LiveWindow, drift: float) -> None:
    """Record a measurement for the decisions to come; where nothing can be told, the last one counts on."""
    release = window.release
    measured = DriftMeasurement(
        settings.live.account, release.version, release.feature_hash, measured_until=window.clock, drift=drift
    )
    DriftStore(settings.postgres.url.get_secret_value()).record(measured)


def _say_moved(found: FeatureDrift) -> str:
    moved = found.features[found.features["drifted"]]
    if moved.empty:
        return f"no feature has moved in {found.bars:,} bars"
    named = ", ".join(f"{row.feature} (PSI {row.psi:.2f}, usual up to {row.limit:.2f})" for row in _first(moved))
    more = f" and {len(moved) - NAMED_MAX} more" if len(moved) > NAMED_MAX else ""
    return f"moved in {found.bars:,} bars: {named}{more}; {found.moved:.0%} of the models' attention is on them"


def _first(frame: pd.DataFrame) -> Sequence[Any]:
    return list(frame.head(NAMED_MAX).itertuples())


def _say_strange(found: FeatureDrift, reference: TrainingReference) -> str:
    return (
        f"{found.strange:.0%} of {found.rows:,} rows are farther than {reference.near.strange_above:.2f} mean distances"
        f" from every training row; on average {found.dissimilarity:.2f}"
    )


def _feature_metadata(found: FeatureDrift) -> dict[str, Any]:
    from fx_dagster.report.plots import bar_png

    shown = dict(zip(found.features["feature"], found.features["psi"] / found.features["limit"], strict=True))
    return {
        DRIFT: found.drift,
        "moved": found.moved,
        "strange": found.strange,
        "dissimilarity": found.dissimilarity,
        "rows": found.rows,
        "bars": found.bars,
        "features": frame_table(found.features),
        "farthest": picture(bar_png(shown, title="Population stability index over its limit", unit="times the limit")),
    }


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    deps=[served_release, labels, "live_session"],
    description="""The probabilities that the active release's models gave live, beside those out of fold.

Their distribution (population stability index), and, for decisions whose outcome is known by now, expected calibration
error and Brier score: beyond what windows of the same length show out of fold, or beyond chance by block bootstrap.""",
)
def prediction_drift(lake: LakeResource, settings: SettingsResource) -> dg.MaterializeResult:
    """Compare the newest decisions' probabilities, and what came of them, with those out of fold."""
    chosen, store = settings.load(), lake.open()
    window = live_window(chosen, store)
    if isinstance(window, str):
        return _nothing(store, PREDICTIONS, window)
    found, tables = [], dict[str, tuple[CalibrationBin, ...]]()
    for model in referenced(window.release):
        said = window.said(model)
        if why := _too_few(said, chosen):
            return _nothing(store, PREDICTIONS, f"release {window.release.version}: {why}")
        known = known_outcomes(store, said, window.clock)
        metrics = window.release.metrics[model]
        reference = PredictionReference.from_dict(metrics[REFERENCE]["predictions"])
        drift, seed = chosen.drift, chosen.training.seed
        found.append(
            judge_predictions(model, reference, said, known, psi_min=drift.psi_min, bars_min=drift.bars_min, seed=seed)
        )
        tables[f"{model}, out of fold"] = tuple(CalibrationBin(**row) for row in metrics["out_of_fold"]["calibration"])
        if len(known):
            tables[f"{model}, live"] = calibration_table(known["up"].to_numpy(np.int8), known["p_up"].to_numpy())
    frame = pd.DataFrame([asdict(one) for one in found])
    store.write(PREDICTIONS, frame, metadata=_prediction_verdicts(found))
    return dg.MaterializeResult(
        metadata={"release": window.release.version, **_prediction_metadata(found, frame, tables)}
    )


def _prediction_verdicts(found: Sequence[PredictionDrift]) -> dict[str, str]:
    return _verdicts(
        predictions=(
            float(np.mean([one.moved for one in found])),
            "; ".join(f"{one.model}: PSI {one.psi:.2f}, usual up to {one.psi_limit:.2f}" for one in found),
        ),
        calibration=(
            float(np.mean([one.miscalibrated for one in found])),
            "; ".join(_say_calibration(one) for one in found),
        ),
    )


def _say_calibration(one: PredictionDrift) -> str:
    if np.isnan(one.brier):
        return f"{one.model}: too few live rows to tell, {one.outcomes} outcomes are known"
    return (
        f"{one.model}: calibration error {one.calibration_error:.3f}, usual up to {one.calibration_limit:.3f}; Brier"
        f" {one.brier:.4f}, with chance at least {one.brier_low:.4f}, against {one.brier_expected:.4f} out of fold"
    )


def _prediction_metadata(
    found: Sequence[PredictionDrift], frame: pd.DataFrame, tables: Mapping[str, Sequence[CalibrationBin]]
) -> dict[str, Any]:
    from fx_dagster.report.plots import calibration_png

    return {
        "moved": float(np.mean([one.moved for one in found])),
        "miscalibrated": float(np.mean([one.miscalibrated for one in found])),
        "rows": found[0].rows,
        "outcomes": found[0].outcomes,
        "models": frame_table(frame),
        "calibration": picture(calibration_png(tables, title="Said and happened")),
    }


def _verdicts(**verdicts: tuple[float, str]) -> dict[str, str]:
    return {name: json.dumps(verdict) for name, verdict in verdicts.items()}


def _nothing(lake: Lake, table: str, why: str) -> dg.MaterializeResult:
    """Keep and show why nothing could be told, so that no older verdict is taken for today's."""
    lake.write(table, pd.DataFrame(), metadata={WHY: why})
    return dg.MaterializeResult(metadata={"nothing_told": why})


def drift_check(asset: dg.AssetsDefinition, table: str, verdict: str, name: str, text: str) -> dg.AssetChecksDefinition:
    """Make the check of one of an asset's numbers."""

    @dg.asset_check(asset=asset, name=name, description=text)
    def stays_small(lake: LakeResource, settings: SettingsResource) -> dg.AssetCheckResult:
        facts, limit = lake.open().metadata(table), settings.load().risk.drift_max
        drift, said = (0.0, facts[WHY]) if WHY in facts else json.loads(facts[verdict])
        return dg.AssetCheckResult(
            passed=bool(drift < limit),
            severity=dg.AssetCheckSeverity.WARN,
            description=said,
            metadata={DRIFT: float(drift), "limit": limit},
        )

    return stays_small


DRIFT_CHECKS = [
    drift_check(
        feature_drift,
        FEATURES,
        "moved",
        "features_are_as_in_training",
        "Features that have moved hold less of the models' attention than FX_RISK_DRIFT_MAX.",
    ),
    drift_check(
        feature_drift,
        FEATURES,
        "strange",
        "rows_lie_near_training_rows",
        "The share of rows far from every training row is less than FX_RISK_DRIFT_MAX.",
    ),
    drift_check(
        prediction_drift,
        PREDICTIONS,
        "predictions",
        "predictions_are_as_out_of_fold",
        "The share of models that answer otherwise than out of fold is less than FX_RISK_DRIFT_MAX.",
    ),
    drift_check(
        prediction_drift,
        PREDICTIONS,
        "calibration",
        "calibration_is_as_out_of_fold",
        "The share of models that come true less often than out of fold is less than FX_RISK_DRIFT_MAX.",
    ),
]
"""All warn: nothing is computed from these assets, and the session judges by itself."""
