"""Releases promoted and rolled back on the real Triton and PostgreSQL while another process asks without a pause."""

from collections.abc import Iterator

import numpy as np
import pytest

from bench.blue_green import Deployment, deployed, measure, simple_release
from bench.serving import made_rows

pytestmark = pytest.mark.integration

RATE, SWITCHES = 100.0, 4


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    datasets = [made_rows(seed).take(np.arange(600)) for seed in (1, 2)]
    with deployed([simple_release(each) for each in datasets], datasets[0]) as where:
        yield where


def test_no_request_is_lost_and_every_answer_is_one_of_the_two_releases(deployment: Deployment) -> None:
    # The two releases must not say the same of any row, or an answer of the wrong one would not be seen.
    with np.load(deployment.questions) as stored:
        assert np.abs(stored["p_up_1"] - stored["p_up_2"]).max(axis=1).min() > 1e-3
    found = measure(deployment, rate=RATE, switches=SWITCHES, steady_s=1.0, pause_s=1.2)
    assert (found.lost, found.failures) == (0, {})
    assert found.wrong == 0
    assert set(found.release) == {1, 2}
    assert [one.version for one in found.switches] == [2, 1, 2, 1]
    # Each switch was seen before the next one, and what was due was asked.
    assert np.isfinite(found.first_ms).all()
    order = found.release[np.argsort(found.due)]
    assert np.count_nonzero(np.diff(order)) >= SWITCHES
    seconds = (found.due.max() - found.due.min()) / 1e9
    assert len(found.due) == pytest.approx(RATE * seconds, rel=0.1)


def test_what_was_rolled_back_is_unloaded_once_nobody_wants_it(deployment: Deployment) -> None:
    assert deployment.store.active() == 1
    deployment.unload()
    assert deployment.store.previous() is None
    switched = deployment.promote(2)
    assert deployment.store.active() == 2
    assert switched.loading_s > 0.0
    assert deployment.roll_back().version == 1
