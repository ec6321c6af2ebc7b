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
import re
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
SERVED_FILE = "releases/served"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}-r[1-9][0-9]{0,8}")


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
            ReleaseError: the number is taken, or the folder cannot be written; nothing half-written is left.
            FeatureMismatchError: the models come from different feature catalogues.
        """
        _require_one_catalogue(artifacts)
        if self._manifest_path(version).exists():
            raise ReleaseError(f"release {version} exists already", mend="release with the next number")
        card = artifacts[0].card
        inputs = sample[np.linspace(0, len(sample) - 1, min(CANARY_ROWS, len(sample))).astype(np.intp)]
        answers = {artifact.name: tuple(onnx_predict(artifact.onnx, inputs).tolist()) for artifact in artifacts}
        try:
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
            self.discard(version)
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
        final = self.root / name
        if final.exists():
            # Left by a release that was interrupted before its manifest: nobody can have loaded it.
            shutil.rmtree(final)
        aside.rename(final)
        return {f"{name}/{place}": hashlib.sha256(content).hexdigest() for place, content in contents.items()}

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)

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

    def verify(self, version: int) -> ReleaseManifest:
        """Return the manifest after comparing every file with its recorded hash.

        Raises:
            ReleaseError: a file is missing or was altered; the message names it.
        """
        manifest = self.manifest(version)
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

    def versions(self) -> list[int]:
        """Return the numbers of the complete releases, ascending."""
        return sorted(int(path.stem) for path in (self.root / "releases").glob("*.json") if path.stem.isdigit())

    def discard(self, version: int) -> None:
        """Remove a release, its manifest first."""
        self._manifest_path(version).unlink(missing_ok=True)
        for folder in self.root.glob(f"*-r{version}"):
            shutil.rmtree(folder)

    def prune(self, *, keep: int, active: int | None) -> list[int]:
        """Remove all but the ``keep`` newest releases and the active one; return what was removed."""
        removed = [version for version in self.versions()[:-keep] if version != active]
        for version in removed:
            self.discard(version)
        return removed

    def _manifest_path(self, version: int) -> Path:
        return self.root / "releases" / f"{version}.json"


def note_served(root: Path, names: Sequence[str]) -> None:
    """Keep the names of the models that a server loads by itself when it starts again."""
    path = root / SERVED_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text("\n".join(names), encoding="utf-8")
    aside.replace(path)


def served_names(root: Path) -> list[str]:
    """Return the names that :func:`note_served` kept and whose folders are still there."""
    try:
        names = (root / SERVED_FILE).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []
    return [name for name in names if _NAME.fullmatch(name) and (root / name / "config.pbtxt").exists()]


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
    config.version_policy.specific.versions[:] = [version]
    for key, value in sorted(parameters.items()):
        config.parameters[key].string_value = value
    for step in config.ensemble_scheduling.step:
        step.model_name = f"{step.model_name}-r{version}"
        step.model_version = version
    text: str = text_format.MessageToString(config)
    return text.encode()


def _require_one_catalogue(artifacts: Sequence[ModelArtifact]) -> None:
    if not artifacts:
        raise ReleaseError("a release without models", mend="train the models first")
    first = artifacts[0].card
    for artifact in artifacts[1:]:
        if artifact.card.feature_hash != first.feature_hash:
            raise FeatureMismatchError(
                f"{first.name} was trained on catalogue {first.feature_hash[:12]}, {artifact.name} on "
                f"{artifact.card.feature_hash[:12]}",
                mend="train all models again",
            )
