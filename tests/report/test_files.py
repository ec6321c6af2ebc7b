from pathlib import Path

import pytest

from fx_dagster.errors import FxError
from fx_dagster.report.files import publish, report_folder, switch_latest, write_summary, write_text
from fx_dagster.report.inputs import ReportInputs
from fx_dagster.report.summary import Summary, read_summary


def test_a_report_is_published_whole(empty_inputs: ReportInputs, tmp_path: Path) -> None:
    folder = report_folder(tmp_path / "reports", empty_inputs.summary)
    page = publish(empty_inputs, folder)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert read_summary(tmp_path / "reports" / "latest" / "summary.json") == empty_inputs.summary
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "summary.json"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, "latest"]


def test_latest_means_the_newest_and_older_ones_stay(summary: Summary, tmp_path: Path) -> None:
    for name in ("first", "second", "second"):
        write_summary(summary, tmp_path / name)
        link = switch_latest(tmp_path / name)
        assert link.resolve() == tmp_path / name
        assert not Path(link.readlink()).is_absolute(), "the home may be moved"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest", "second"]


def test_a_folder_named_latest_is_not_thrown_away(summary: Summary, tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    write_summary(summary, tmp_path / "one")
    with pytest.raises(FxError, match="latest is not a link"):
        switch_latest(tmp_path / "one")


def test_publishing_again_replaces(empty_inputs: ReportInputs, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    publish(empty_inputs, folder)
    (folder / "stale").touch()
    publish(empty_inputs, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "summary.json"]


def test_a_place_that_cannot_be_written_is_named_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FxError, match=r"file/summary\.json"):
        write_text(tmp_path / "file" / "summary.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "summary.json", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FxError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]
