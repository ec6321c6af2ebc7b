import pytest

from bench.table import COLUMNS, Figure, Limit, Rival, Row, cells, number

OURS = Figure(2.0, 1.9, 2.5)


def row(limit=None, rivals=(), *, more=False):
    return Row("work", OURS, "µs", limit, more_is_better=more, rivals=rivals)


def test_a_figure_is_the_median_and_the_extremes():
    assert Figure.of([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(("more", "expected"), [(False, 4.0), (True, 0.25)])
def test_a_ratio_above_one_means_that_this_project_is_ahead(more, expected):
    peer = Rival("peer", Figure(8.0, 8.0, 8.0))
    assert row(rivals=(peer,), more=more).ratio(peer) == expected


@pytest.mark.parametrize(
    ("limit", "more", "reached"),
    [
        (None, False, None), (Limit(2.0), False, True), (Limit(1.9), False, False), (Limit(2.0), True, True),
        (Limit(2.1), True, False), (Limit(4.0, beside=True), False, True), (Limit(4.1, beside=True), False, False),
    ],
)  # fmt: skip
def test_a_limit_is_kept_or_not(limit, more, reached):
    assert row(limit, (Rival("peer", Figure(8.0, 8.0, 8.0)),), more=more).reached is reached


@pytest.mark.parametrize("rivals", [(), (Rival("peer", None, "could not be installed here"),)])
def test_without_the_peer_nobody_knows_whether_a_limit_beside_it_is_kept(rivals):
    assert row(Limit(1.0, beside=True), rivals).reached is None


def test_each_peer_has_a_line_and_the_work_is_named_once():
    first, second = cells(row(Limit(3.0), (Rival("a", Figure(8.0, 8.0, 8.0)), Rival("b", None, "no network"))))
    assert len(first) == len(second) == len(COLUMNS)
    assert first == ["work", "2.00 (1.90–2.50) µs", "a", "8.00", "4.00 ×", "≤ 3", "yes"]
    assert second == ["", "", "b", "no network", "–", "", ""]


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (-12.34, "-12.3")]
)
def test_three_digits_count(value, text):
    assert number(value) == text
