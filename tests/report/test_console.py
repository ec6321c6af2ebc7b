import io

from rich.console import Console

from fx_dagster.report.console import WIDTH, summary_lines, summary_renderables
from fx_dagster.report.inputs import ReportInputs
from fx_dagster.report.summary import Summary


def test_lines_fit_into_a_terminal(summary: Summary, empty_inputs: ReportInputs) -> None:
    for one in (summary, empty_inputs.summary):
        assert [line for _, line in summary_lines(one) if len(line) > WIDTH] == []


def test_columns_are_aligned(summary: Summary) -> None:
    lines = [line for _, line in summary_lines(summary)]
    ends = {len(line) for line in lines if line.startswith(("  xgboost", "  random_forest"))}
    assert len(ends) == 1
    ends = {len(line) for line in lines if line.startswith(("  Net return", "  Sharpe", "  Win rate", "  Direction,"))}
    assert len(ends) == 1


def test_it_says_what_matters(summary: Summary) -> None:
    text = "\n".join(line for _, line in summary_lines(summary))
    for said in (
        "No edge was found.", "break-even", "AI-assisted", "Bare Triton call", "level 3, traditional only",
        "Success measures", summary.places.html, "fx up",
    ):  # fmt: skip
        assert said in text, said


def test_a_long_path_stays_whole(summary: Summary) -> None:
    long = "/home/" + "a/" * 60 + "report.html"
    places = summary.places.model_copy(update={"html": long})
    lines = [line for _, line in summary_lines(summary.model_copy(update={"places": places}))]
    assert long in lines


def test_an_empty_run_is_said_in_a_few_lines(empty_inputs: ReportInputs) -> None:
    text = "\n".join(line for _, line in summary_lines(empty_inputs.summary))
    assert "No model was judged" in text
    assert "not measurable" in text
    assert "None" not in text


def test_rich_prints_it_as_it_is(summary: Summary) -> None:
    out = io.StringIO()
    console = Console(file=out, width=60)
    for part in summary_renderables(summary):
        console.print(part, soft_wrap=True)
    assert out.getvalue().splitlines() == [line for _, line in summary_lines(summary)]
