"""Gates before a release goes live."""

from dataclasses import replace
from typing import Any

import pytest

from fx_dagster.errors import SettingsError
from fx_dagster.market.timeframes import DAY_NS
from fx_dagster.models.promotion import (
    FORCEABLE,
    Gate,
    Surroundings,
    headline,
    judge,
    refusals,
    shadow_account,
)
from fx_dagster.models.release import Canary, ReleaseManifest

NOW = 1_514_757_600_000_000_000
GOOD = {"rows": 900, "accuracy": 0.54, "break_even_accuracy": 0.52, "mean_net_return": 2e-5, "log_loss": 0.68}
AROUND = Surroundings("sample", NOW, "c0ffee", files_problem="", better=True, evidence="better: …")


def manifest(metrics: dict[str, Any] | None = None, **lineage: Any) -> ReleaseManifest:
    facts = {"source": "sample", "last": NOW - 3 * DAY_NS, "checks": {"xgboost_model onnx_is_the_model": True}}
    return ReleaseManifest(
        version=4,
        created_at="2017-12-29T22:00:00+00:00",
        models=("xgboost",),
        members=("xgboost",),
        symbols=("EURUSD",),
        quantised=(),
        device="cpu",
        feature_names=("a",),
        feature_hash="c0ffee",
        files={"xgboost-r4/4/model.onnx": "00"},
        canary=Canary({}, {}),
        metrics={"xgboost": {"holdout": GOOD}} if metrics is None else metrics,
        lineage={**facts, **lineage},
        cards={},
    )


def refused(release: ReleaseManifest, around: Surroundings = AROUND, *, force: bool = False) -> list[str]:
    return refusals(judge(release, around, data_age_days_max=30, force=force))


def test_a_release_with_nothing_against_it_passes_every_gate() -> None:
    results = judge(manifest(), AROUND, data_age_days_max=30)
    assert [one.gate for one in results] == list(Gate)
    assert all(one.passed and one.open and not one.forced for one in results)
    assert refusals(results) == []


@pytest.mark.parametrize(
    ("release", "around", "reason"),
    [
        (manifest(checks={"b": False, "a": False, "c": True}), AROUND, "checks: failed: a, b"),
        (manifest(checks={"a": None}), AROUND, "checks: failed: a"),
        (manifest(checks={}), AROUND, "checks: checks unknown"),
        (manifest({"xgboost": {"holdout": GOOD, "checks": {"leak": False}}}), AROUND, "failed: xgboost leak"),
        (manifest(), replace(AROUND, feature_hash="decaf"), "features: made with catalogue c0ffee, decaf runs here"),
        (manifest(), replace(AROUND, files_problem="x: missing"), "files: x: missing"),
        (manifest(last=NOW - 31 * DAY_NS), AROUND, "data: newest row 31 days before .*, 30 are allowed"),
        (manifest(), replace(AROUND, source="histdata"), "data: trained on source sample, histdata runs here"),
        (manifest(last=None), AROUND, "data: age unknown"),
        (manifest({}), AROUND, "costs: net return unknown"),
        (
            manifest({"xgboost": {"holdout": {**GOOD, "mean_net_return": 0.0}}}),
            AROUND,
            "costs: .*not above zero; 54.00",
        ),
        (manifest(), replace(AROUND, better=False, evidence="undecided: 3 days"), "sequential test: undecided: 3 days"),
    ],
)
def test_each_refusal_names_its_gate(release: ReleaseManifest, around: Surroundings, reason: str) -> None:
    (said,) = refused(release, around)
    import re

    assert re.search(reason, said)


def test_every_reason_is_told_at_once() -> None:
    around = Surroundings("other", NOW, "decaf", "x", better=False, evidence="worse")
    said = refused(manifest({}, checks={}), around)
    assert [one.split(":")[0] for one in said] == [str(gate) for gate in Gate]


def test_a_person_overrules_costs_and_the_test_and_never_integrity() -> None:
    around = Surroundings("other", NOW, "decaf", "x", better=False, evidence="worse")
    said = refused(manifest({}, checks={}), around, force=True)
    assert {one.split(":")[0] for one in said} == {str(gate) for gate in set(Gate) - FORCEABLE}
    results = judge(manifest({}), replace(AROUND, better=False), data_age_days_max=30, force=True)
    assert refusals(results) == []
    assert {one.gate for one in results if one.forced} == FORCEABLE
    assert not any(one.passed for one in results if one.forced)


def test_forcing_marks_only_what_was_overruled() -> None:
    assert not any(one.forced for one in judge(manifest(), AROUND, data_age_days_max=30, force=True))


def test_the_first_release_is_compared_with_nothing() -> None:
    assert refused(manifest(), replace(AROUND, better=None, evidence="")) == []


def test_checks_that_were_never_recorded_are_unknown() -> None:
    release = manifest()
    facts = {name: value for name, value in release.lineage.items() if name != "checks"}
    assert refused(replace(release, lineage=facts)) == ["checks: checks unknown: the manifest names none"]


@pytest.mark.parametrize(
    ("metrics", "passes"),
    [
        ({"xgboost": {"holdout": GOOD}, "traditional": {"holdout": {"mean_net_return": 3e-5}}}, False),
        ({"xgboost": {"holdout": GOOD}, "traditional": {"holdout": {"mean_net_return": 1e-5}}}, True),
        ({"xgboost": {"holdout": GOOD}, "traditional": {"holdout": {"mean_net_return": -1.0}}}, True),
        ({"xgboost": {"out_of_fold": GOOD}}, True),
        ({"xgboost": {"out_of_fold": GOOD, "holdout": {**GOOD, "mean_net_return": -1e-5}}}, False),
        ({"xgboost": {"holdout": {**GOOD, "mean_net_return": -1.0}}, "meta": {"holdout": GOOD}}, True),
        ({"xgboost": {"holdout": GOOD}, "lstm": {"holdout": {**GOOD, "mean_net_return": -3e-5}}}, False),
        ({"xgboost": {"holdout": GOOD}, "regime": {"holdout": {"accuracy": 0.5}}}, True),
        ({"xgboost": {"holdout": {**GOOD, "mean_net_return": float("nan")}}}, False),
    ],
)  # fmt: skip
def test_costs_are_beaten_on_the_rows_that_count(metrics: dict[str, Any], passes: bool) -> None:
    (found,) = (one for one in judge(manifest(metrics), AROUND, data_age_days_max=30) if one.gate is Gate.COSTS)
    assert found.passed is passes


def test_headline_is_the_deciding_model_or_the_mean() -> None:
    two = {"xgboost": {"holdout": {"accuracy": 0.5}}, "lstm": {"holdout": {"accuracy": 0.6}}, "regime": {}}
    assert headline(manifest(two), "accuracy") == pytest.approx(0.55)
    assert headline(manifest({**two, "meta": {"holdout": {"accuracy": 0.7}}}), "accuracy") == 0.7
    assert headline(manifest({}), "accuracy") is None


def test_a_shadow_account_is_an_account() -> None:
    assert shadow_account("paper") == "paper-shadow"
    assert len(shadow_account("x" * 22)) == 29
    with pytest.raises(SettingsError, match="30 characters of 29"):
        shadow_account("x" * 23)
