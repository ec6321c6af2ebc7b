"""Releases as folders that Triton serves.

A release never rewrites a folder that may be loaded: its models have the release's number in their names, ::

    <root>/xgboost-r7/config.pbtxt        rendered from triton_models/xgboost/config.pbtxt
    <root>/xgboost-r7/7/model.onnx
    <root>/simple-r7/7/                   an ensemble has no file of its own
    <root>/releases/7.json                the manifest, written last: without it there is no release

Folders are written aside and renamed. ``resources/releases.py`` knows which release is active.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fx_dagster.errors import FeatureMismatchError, ReleaseError
from fx_dagster.models.onnx_export import onnx_predict
from fx_dagster.models.protocol import Float32, ModelArtifact
from fx_dagster.models.release import SIMPLE, Canary, ReleaseManifest

TEMPLATES = Path(__file__).parents[1] / "triton_models"
MODEL_FILE = "model.onnx"
CANARY_ROWS = 4


class ModelRepository:
    """The folders of all releases under ``root``."""

    def __init__(self, root: Path, templates: Path = TEMPLATES) -> None:
        self.root = root
        self._templates = templates

    def build(
        self,
        version: int,
        artifacts: Sequence[ModelArtifact],
        sample: Float32,
        *,
        metrics: Mapping[str, Any],
        lineage: Mapping[str, Any],
    ) -> ReleaseManifest:
        """Write a release: its models, their ensemble, and last its manifest.

        Args:
            version: number of the release, from 1, never used before.
            artifacts: fitted models, in the order of an answer's columns.
            sample: some rows of features, float32 ``[n, F]``: the canary's inputs are taken from them.
            metrics: out-of-sample numbers by model.
            lineage: what it was trained on.

        Raises:
            ReleaseError: the number is taken, a model answers no probability, or the folder cannot be written; nothing
                half-written is left.
            FeatureMismatchError: the models or the sample come from different feature catalogues.
        """
        _require_one_catalogue(artifacts, sample)
        if self._manifest_path(version).exists():
            raise ReleaseError(f"release {version} exists already", mend="release with the next number")
        card = artifacts[0].card
        inputs = sample[np.linspace(0, len(sample) - 1, min(CANARY_ROWS, len(sample))).astype(np.intp)]
        answers = {artifact.name: _answers(artifact, inputs) for artifact in artifacts}
        try:
            self._clear(version)
            files = self._write_models(version, artifacts)
            manifest = ReleaseManifest(
                version=version,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                models=tuple(artifact.name for artifact in artifacts),
                feature_names=card.feature_names,
                feature_hash=card.feature_hash,
                files=files,
                canary=Canary(tuple(tuple(row) for row in inputs.astype(float).tolist()), answers),
                metrics=metrics,
                lineage=lineage,
                cards={artifact.name: artifact.card.to_dict() for artifact in artifacts},
            )
            self._write(self._manifest_path(version), manifest.to_json().encode())
        except OSError as error:
            self._clear(version)
            raise ReleaseError(
                f"release {version} cannot be written: {error}",
                mend="free disk space or check the folder's permissions",
            ) from error
        return manifest

    def _write_models(self, version: int, artifacts: Sequence[ModelArtifact]) -> dict[str, str]:
        files: dict[str, str] = {}
        width = len(artifacts[0].card.feature_names)
        for artifact in artifacts:
            digest = hashlib.sha256(artifact.onnx).hexdigest()
            parameters = {"feature_hash": artifact.card.feature_hash, "sha256": digest}
            config = render_config(self._template(artifact.name), version, width, parameters)
            contents = {"config.pbtxt": config, f"{version}/{MODEL_FILE}": artifact.onnx}
            files |= self._place(f"{artifact.name}-r{version}", contents)
        ensemble = render_config(
            self._template(SIMPLE), version, width, {"feature_hash": artifacts[0].card.feature_hash}
        )
        files |= self._place(f"{SIMPLE}-r{version}", {"config.pbtxt": ensemble}, version_folder=str(version))
        return files

    def _place(self, name: str, contents: Mapping[str, bytes], version_folder: str = "") -> dict[str, str]:
        """Write one model's folder aside, then rename it to its name."""
        aside = self.root / f".{name}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if version_folder:
            (aside / version_folder).mkdir()
        for place, content in contents.items():
            self._write(aside / place, content)
        _sync_folder(aside)
        aside.rename(self.root / name)
        _sync_folder(self.root)
        return {f"{name}/{place}": hashlib.sha256(content).hexdigest() for place, content in contents.items()}

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_folder(path.parent)

    def _template(self, name: str) -> Path:
        path = self._templates / name / "config.pbtxt"
        if not path.exists():
            raise ReleaseError(f"no {path}", mend=f"add a folder {name} with a config.pbtxt to triton_models")
        return path

    def manifest(self, version: int) -> ReleaseManifest:
        """Return a release's manifest.

        Raises:
            ReleaseError: there is no such release, or its manifest is not one.
        """
        path = self._manifest_path(version)
        try:
            return ReleaseManifest.from_json(path.read_bytes(), place=str(path))
        except OSError as error:
            raise ReleaseError(
                f"release {version} is not in {self.root}", mend="run the training job: it builds a release"
            ) from error

    def verify(self, version: int, recorded: ReleaseManifest | None = None) -> ReleaseManifest:
        """Return the manifest after comparing every file with its recorded hash.

        Args:
            version: number of the release.
            recorded: the manifest as PostgreSQL keeps it; the one on disk must be the same.

        Raises:
            ReleaseError: a file is missing, was altered or does not belong there; the message names it.
        """
        manifest = self.manifest(version)
        if recorded is not None and recorded.digest() != manifest.digest():
            raise ReleaseError(
                f"{self._manifest_path(version)}: not the manifest that was recorded for release {version}",
                mend="release again; the earlier release goes on serving",
            )
        self._require_no_other_files(manifest)
        for place, digest in manifest.files.items():
            path = self.root / place
            try:
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise ReleaseError(f"{path}: missing from release {version}", mend="release again") from error
            if found != digest:
                raise ReleaseError(
                    f"{path}: not the file of release {version} (SHA-256 {found[:12]}, recorded {digest[:12]})",
                    mend="release again; the earlier release goes on serving",
                )
        return manifest

    def _require_no_other_files(self, manifest: ReleaseManifest) -> None:
        for name in manifest.served_names:
            for path in (self.root / name).rglob("*"):
                if not path.is_dir() and path.relative_to(self.root).as_posix() not in manifest.files:
                    raise ReleaseError(
                        f"{path}: does not belong to release {manifest.version}", mend="remove it, or release again"
                    )

    def versions(self) -> list[int]:
        """Return the numbers of the complete releases, ascending."""
        return sorted(int(path.stem) for path in (self.root / "releases").glob("*.json") if path.stem.isdigit())

    def discard(self, version: int) -> None:
        """Remove a release, its manifest first."""
        self._manifest_path(version).unlink(missing_ok=True)
        self._clear(version)

    def _clear(self, version: int) -> None:
        """Remove folders that an interrupted or failed release left before its manifest: nobody loads those."""
        for pattern in (f"*-r{version}", f".*-r{version}.*"):
            for folder in self.root.glob(pattern):
                shutil.rmtree(folder)

    def prune(self, *, keep: int, active: int | None) -> list[int]:
        """Remove all but the ``keep`` (at least 1) newest releases and the active one; return what was removed."""
        if keep < 1:
            raise ReleaseError(f"cannot keep {keep} releases", mend="keep at least 1")
        removed = [version for version in self.versions()[:-keep] if version != active]
        for version in removed:
            self.discard(version)
        return removed

    def _manifest_path(self, version: int) -> Path:
        return self.root / "releases" / f"{version}.json"


def render_config(template: Path, version: int, features: int, parameters: Mapping[str, str]) -> bytes:
    """Return a model's configuration for one release: its name, dimensions, version and parameters.

    Raises:
        ReleaseError: the template is no Triton model configuration.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(template.read_text(encoding="utf-8"), config)
    except text_format.ParseError as error:
        raise ReleaseError(f"{template}: {error}", mend="correct the file") from error
    config.name = f"{template.parent.name}-r{version}"
    warmups = [entry for sample in config.model_warmup for entry in sample.inputs.values()]
    for tensor in (*config.input, *warmups):
        if list(tensor.dims) == [-1]:
            tensor.dims[:] = [features]
    for tensor in (*config.input, *warmups):
        if list(tensor.dims) != [features]:
            raise ReleaseError(
                f"{template}: an input has dims {list(tensor.dims)}, the models have {features} features",
                mend="write dims: [ -1 ]",
            )
    config.version_policy.specific.versions[:] = [version]
    for key, value in sorted(parameters.items()):
        config.parameters[key].string_value = value
    for step in config.ensemble_scheduling.step:
        step.model_name = f"{step.model_name}-r{version}"
        step.model_version = version
    text: str = text_format.MessageToString(config)
    return text.encode()


def _answers(artifact: ModelArtifact, inputs: Float32) -> tuple[float, ...]:
    """Return the canary's answers.

    Raises:
        ReleaseError: the graph cannot be run, or an answer is no probability.
    """
    try:
        answers = onnx_predict(artifact.onnx, inputs)
    except Exception as error:  # ONNX Runtime raises many kinds
        raise ReleaseError(f"{artifact.name}: its ONNX graph does not run: {error}", mend="train it again") from error
    if not ((answers >= 0) & (answers <= 1)).all():
        raise ReleaseError(f"{artifact.name} answers {answers.tolist()}, no probabilities", mend="train it again")
    return tuple(answers.tolist())


def _sync_folder(folder: Path) -> None:
    """Make names in a folder durable: a rename is lost in a power failure otherwise."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_one_catalogue(artifacts: Sequence[ModelArtifact], sample: Float32) -> None:
    if not artifacts:
        raise ReleaseError("a release without models", mend="train the models first")
    first = artifacts[0].card
    if not len(sample) or sample.shape[1] != len(first.feature_names):
        raise FeatureMismatchError(
            f"the canary's sample is {sample.shape}, {first.name} has {len(first.feature_names)} features",
            mend="take it from the rows that the models were trained on",
        )
    for artifact in artifacts[1:]:
        if artifact.card.feature_hash != first.feature_hash:
            raise FeatureMismatchError(
                f"{first.name} was trained on catalogue {first.feature_hash[:12]}, {artifact.name} on "
                f"{artifact.card.feature_hash[:12]}",
                mend="train all models again",
            )
