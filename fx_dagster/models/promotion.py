"""What a release must show before it goes live: gates, each with its reason, and the stages on the way.

=================  =====================================================================  ===============
gate               refuses                                                                may be forced
=================  =====================================================================  ===============
checks             a blocking check of a model failed, or what they said is not known      no
features           the release was made with another feature catalogue than runs           no
files              a file is missing, altered or does not belong there                     no
data               newest row too old, or from another source                              no
costs              net return after costs not above zero and the traditional control's     yes
sequential test    the challenger is not `better` than the live release                    yes
=================  =====================================================================  ===============

The first release has nothing to be compared with: the sequential test is not asked. A signature that does not fit
never gets here: such a manifest cannot be read.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from fx_dagster.errors import SettingsError
from fx_dagster.market.timeframes import DAY_NS
from fx_dagster.models.release import ReleaseManifest

CHECKS = "checks"
"""Key of a manifest's lineage, or of a model's metrics, under which results of blocking checks lie: name → passed."""

CONTROL = "traditional"
"""Key of a manifest's metrics under which the traditional control's lie, where it was judged on the same rows."""

DECIDING = "meta"
"""The model whose figures count where a release has it; otherwise the mean of its models."""

JUDGED_ON = ("holdout", "out_of_fold")
"""Rows whose figures count, the first that there are."""

SHADOW_SUFFIX = "-shadow"
_ACCOUNT_MAX = 29


class Stage(StrEnum):
    """Where a release stands."""

    RECORDED = "recorded"
    SHADOW = "shadow"
    LIVE = "live"
    RETIRED = "retired"


class Gate(StrEnum):
    """What is asked of a release, in the order in which it is asked."""

    CHECKS = "checks"
    FEATURES = "features"
    FILES = "files"
    DATA = "data"
    COSTS = "costs"
    SEQUENTIAL = "sequential test"


FORCEABLE = frozenset({Gate.COSTS, Gate.SEQUENTIAL})
"""Gates that a person may overrule; integrity is never among them."""


@dataclass(frozen=True)
class GateResult:
    """What one gate said.

    Attributes:
        gate: which.
        passed: whether it lets the release through by itself.
        text: why, for reading.
        forced: it did not, and a person overruled it.
    """

    gate: Gate
    passed: bool
    text: str
    forced: bool = False

    @property
    def open(self) -> bool:
        """Whether the release may pass."""
        return self.passed or self.forced

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "gate": str(self.gate)}


@dataclass(frozen=True)
class Surroundings:
    """What is known beside the manifest.

    Attributes:
        source: name of the market source that runs here.
        newest_ns: end of its newest bar, ns UTC.
        feature_hash: of the catalogue that runs here.
        files_problem: why the files are not the recorded ones; empty: they are.
        better: whether the sequential test says so; None: there is no live release to compare with.
        evidence: what the test said, for reading.
    """

    source: str
    newest_ns: int
    feature_hash: str
    files_problem: str
    better: bool | None
    evidence: str = ""


def judge(
    manifest: ReleaseManifest, around: Surroundings, *, data_age_days_max: float, force: bool = False
) -> tuple[GateResult, ...]:
    """Return what every gate says of a release, in their order.

    Args:
        manifest: of the release.
        around: what is known beside it.
        data_age_days_max: most days between the newest row that it saw and the source's newest bar.
        force: a person overrules what may be overruled.
    """
    found = (
        _checks(manifest),
        _features(manifest, around),
        GateResult(Gate.FILES, not around.files_problem, around.files_problem or f"{len(manifest.files)} as recorded"),
        _data(manifest, around, data_age_days_max),
        _costs(manifest),
        _sequential(around),
    )
    if not force:
        return found
    return tuple(
        one if one.passed or one.gate not in FORCEABLE else GateResult(one.gate, False, one.text, forced=True)
        for one in found
    )


def refusals(results: Sequence[GateResult]) -> list[str]:
    """Return the reasons against a promotion, each with its gate's name; none: it may go live."""
    return [f"{one.gate}: {one.text}" for one in results if not one.open]


def shadow_account(account: str) -> str:
    """Return the account on which a challenger trades beside ``account``.

    Raises:
        SettingsError: the name would be longer than an account's may be.
    """
    name = account + SHADOW_SUFFIX
    if len(name) > _ACCOUNT_MAX:
        raise SettingsError(
            f"account {account} has no room for {SHADOW_SUFFIX}: {len(name)} characters of {_ACCOUNT_MAX}",
            mend="set a shorter FX_LIVE_ACCOUNT",
        )
    return name


def headline(manifest: ReleaseManifest, figure: str, *, rows: str = "holdout") -> float | None:
    """Return a figure of the deciding model, or where there is none the mean over the models that have it."""
    found = {name: _number(_mapping(_mapping(said).get(rows)).get(figure)) for name, said in manifest.metrics.items()}
    known = {name: value for name, value in found.items() if value is not None and name != CONTROL}
    if DECIDING in known:
        return known[DECIDING]
    return sum(known.values()) / len(known) if known else None


def _checks(manifest: ReleaseManifest) -> GateResult:
    said = dict(_said(manifest))
    if not said:
        return GateResult(Gate.CHECKS, False, "checks unknown: the manifest names none")
    failed = sorted(name for name, passed in said.items() if passed is not True)
    text = f"failed: {', '.join(failed)}" if failed else f"{len(said)} passed"
    return GateResult(Gate.CHECKS, not failed, text)


def _said(manifest: ReleaseManifest) -> Iterator[tuple[str, Any]]:
    yield from _mapping(manifest.lineage.get(CHECKS)).items()
    for model, figures in manifest.metrics.items():
        for name, passed in _mapping(_mapping(figures).get(CHECKS)).items():
            yield f"{model} {name}", passed


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _features(manifest: ReleaseManifest, around: Surroundings) -> GateResult:
    same = manifest.feature_hash == around.feature_hash
    text = f"catalogue {around.feature_hash[:12]}"
    if not same:
        text = f"made with catalogue {manifest.feature_hash[:12]}, {around.feature_hash[:12]} runs here"
    return GateResult(Gate.FEATURES, same, text)


def _data(manifest: ReleaseManifest, around: Surroundings, age_days_max: float) -> GateResult:
    last, source = manifest.lineage.get("last"), manifest.lineage.get("source")
    if not isinstance(last, int) or not isinstance(source, str):
        return GateResult(Gate.DATA, False, "age unknown: the manifest names no newest row or no source")
    if source != around.source:
        return GateResult(Gate.DATA, False, f"trained on source {source}, {around.source} runs here")
    age_days = (around.newest_ns - last) / DAY_NS
    text = f"newest row {age_days:.0f} days before the source's newest bar"
    if age_days > age_days_max:
        return GateResult(Gate.DATA, False, f"{text}, {age_days_max:g} are allowed")
    return GateResult(Gate.DATA, True, text)


def _costs(manifest: ReleaseManifest) -> GateResult:
    for rows in JUDGED_ON:
        figures = {name: _mapping(_mapping(found).get(rows)) for name, found in manifest.metrics.items()}
        known = {name: found for name, found in figures.items() if _net(found) is not None}
        control = _net(known.pop(CONTROL, {}))
        chosen = {DECIDING: known[DECIDING]} if DECIDING in known else known
        if chosen:
            return _costs_on(rows, chosen, control)
    return GateResult(Gate.COSTS, False, "net return unknown: the manifest has no figures after costs")


def _costs_on(rows: str, chosen: Mapping[str, Mapping[str, Any]], control: float | None) -> GateResult:
    nets = [net for net in map(_net, chosen.values()) if net is not None]
    net = sum(nets) / len(nets)
    least = max(0.0, control or 0.0)
    beaten = net > least
    text = f"{net:+.5%} a bar after costs on the {rows.replace('_', ' ')} rows ({', '.join(sorted(chosen))})"
    if not beaten:
        text += f", not above {'zero' if least == 0.0 else f'the traditional {least:+.5%}'}{_accuracies(chosen)}"
    return GateResult(Gate.COSTS, beaten, text)


def _accuracies(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [
        f"{found['accuracy']:.2%} right, {found['break_even_accuracy']:.2%} break even"
        for found in chosen.values()
        if {"accuracy", "break_even_accuracy"} <= set(found)
    ]
    return f"; {parts[0]}" if len(parts) == 1 else ""


def _net(figures: Mapping[str, Any]) -> float | None:
    return _number(figures.get("mean_net_return"))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _sequential(around: Surroundings) -> GateResult:
    if around.better is None:
        return GateResult(Gate.SEQUENTIAL, True, "no live release to compare with")
    return GateResult(Gate.SEQUENTIAL, around.better, around.evidence)
