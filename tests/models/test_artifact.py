"""Model artifacts on disk: whole, or refused with what to do."""

import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fx_dagster.errors import ReleaseError
from fx_dagster.models.protocol import ModelArtifact, ModelCard


def artifact(number: int) -> ModelArtifact:
    card = ModelCard("xgboost", ("a", "b"), "c0ffee", 100, 0.5, number, {"fit": number}, {"a": 1.0}, {})
    return ModelArtifact("xgboost", bytes([number]) * 200_000, card)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    artifact(1).save(tmp_path)
    assert ModelArtifact.load(tmp_path, "xgboost") == artifact(1)
    artifact(2).save(tmp_path)
    assert ModelArtifact.load(tmp_path, "xgboost") == artifact(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["xgboost.json", "xgboost.onnx"]


def test_a_graph_of_one_fit_with_the_card_of_another_is_refused(tmp_path: Path) -> None:
    artifact(1).save(tmp_path)
    (tmp_path / "xgboost.onnx").write_bytes(artifact(2).onnx)
    with pytest.raises(ReleaseError, match=r"xgboost\.onnx: not the graph that xgboost\.json .* train the model again"):
        ModelArtifact.load(tmp_path, "xgboost")


@pytest.mark.parametrize("name", ["xgboost.onnx", "xgboost.json"])
def test_a_truncated_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    artifact(1).save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ReleaseError, match=name):
        ModelArtifact.load(tmp_path, "xgboost")
    path.unlink()
    with pytest.raises(ReleaseError, match=f"{name}: not a model artifact"):
        ModelArtifact.load(tmp_path, "xgboost")


def test_a_training_that_is_killed_leaves_one_fit_or_is_refused(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from fx_dagster.models.protocol import ModelArtifact, ModelCard
        def artifact(number):
            card = ModelCard("xgboost", ("a", "b"), "c0ffee", 100, 0.5, number, {"fit": number}, {"a": 1.0}, {})
            return ModelArtifact("xgboost", bytes([number]) * 200_000, card)
        print("ready", flush=True)
        while True:
            for number in (1, 2):
                artifact(number).save(Path(sys.argv[1]))
    """
    for round_number in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.02 + 0.013 * round_number)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with suppress(ReleaseError):  # two halves of different fits
            assert ModelArtifact.load(tmp_path, "xgboost") in (artifact(1), artifact(2))
        artifact(1).save(tmp_path)  # the next training goes its way
        assert ModelArtifact.load(tmp_path, "xgboost") == artifact(1)
