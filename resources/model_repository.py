"""Releases as folders that Triton serves.

A release never rewrites a folder that may be loaded: its models have the release's number in their names, ::

    <root>/xgboost-r7/config.pbtxt        rendered from triton_models/xgboost/config.pbtxt
    <root>/xgboost-r7/7/model.onnx
    <root>/simple-r7/7/                   an ensemble has no file of its own
    <root>/ensemble-r7/7/                 all models, where there are more than the simple ones
    <root>/releases/7.json                the manifest, written last: without it there is no release

Folders are written aside and renamed. ``resources/releases.py`` knows which release is active.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import FeatureMismatchError, ReleaseError
from fx_dagster.models.answer import SIMPLE_MODELS
from fx_dagster.models.graph import Graph, directions, ordered
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.quantise import is_quantised
from fx_dagster.models.release import ENSEMBLE, SIMPLE, Canary, ReleaseManifest
from fx_dagster.models.service import ModelCallError, validated
from fx_dagster.settings import Settings
from resources.cache import SharedCache
from resources.triton_config import Device, render_config, render_ensemble

TEMPLATES = Path(__file__).parents[1] / "triton_models"
MODEL_FILE = "model.onnx"
CANARY_ROWS = 4
_log = logging.getLogger(__name__)


class WeightStore(Protocol):
    """Keeps files by their hash for a while (:class:`resources.cache.SharedCache`)."""

    def weights(self, sha256: str) -> bytes | None:
        """Return the file with that SHA-256; None: it is not there."""
        ...

    def keep_weights(self, content: bytes) -> str:
        """Keep a file and return its SHA-256."""
        ...


class ModelRepository:
    """The folders of all releases under ``root``.

    Args:
        root: the folder that Triton reads.
        templates: folder of the configurations' templates.
        device: what new releases are rendered for: ``cpu``, or ``gpu`` for a Triton with NVIDIA's own backend.
        weights: keeps new files too; a file that is lost from the folder is put back from there. None: nobody does.
    """

    def __init__(
        self, root: Path, templates: Path = TEMPLATES, device: Device = "cpu", weights: WeightStore | None = None
    ) -> None:
        self.root = root
        self.device: Device = device
        self._templates = templates
        self._weights = weights

    @classmethod
    def of(cls, settings: Settings) -> "ModelRepository":
        """Return the repository of an installation, with its shared cache."""
        return cls(settings.model_repository, weights=SharedCache.of(settings))

    def build(
        self,
        version: int,
        artifacts: Sequence[ModelArtifact],
        sample: ModelInputs,
        *,
        symbols: Sequence[str],
        metrics: Mapping[str, Any],
        lineage: Mapping[str, Any],
    ) -> ReleaseManifest:
        """Write a release: its models, their ensembles, and last its manifest.

        Args:
            version: number of the release, from 1, never used before.
            artifacts: fitted models, in any order; one whose card has ``metrics["int8"]["served"]`` is in INT8.
            sample: some rows: the canary's inputs are taken from them.
            symbols: what a row's symbol is a place in.
            metrics: out-of-sample numbers by model.
            lineage: what it was trained on.

        Raises:
            ReleaseError: the number is taken, a model does not fit into the graph, answers what no answer may be or has
                other tensors than its template, or the folder cannot be written; nothing half-written is left.
            FeatureMismatchError: the models or the sample come from different feature catalogues.
        """
        _require_one_catalogue(artifacts, sample)
        if self._manifest_path(version).exists():
            raise ReleaseError(f"release {version} exists already", mend="release with the next number")
        chosen = sample.take(np.linspace(0, len(sample) - 1, min(CANARY_ROWS, len(sample))).astype(np.intp))
        canary = Canary.of(chosen, _answers(artifacts, chosen))
        by_name = {artifact.name: artifact for artifact in artifacts}
        members = ordered(by_name)
        configs = self._configs(version, by_name, members)
        try:
            self._clear(version)
            files = self._write_models(version, by_name, members, configs)
            card = artifacts[0].card
            manifest = ReleaseManifest(
                version=version,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                models=directions(members),
                members=members,
                symbols=tuple(symbols),
                quantised=tuple(name for name in members if is_quantised(by_name[name])),
                device=self.device,
                feature_names=card.feature_names,
                feature_hash=card.feature_hash,
                files=files,
                canary=canary,
                metrics=metrics,
                lineage=lineage,
                cards={name: by_name[name].card.to_dict() for name in members},
            )
            self._write(self._manifest_path(version), manifest.to_json().encode())
        except OSError as error:
            self._clear(version)
            raise ReleaseError(
                f"release {version} cannot be written: {error}",
                mend="free disk space or check the folder's permissions",
            ) from error
        return manifest

    def _configs(self, version: int, by_name: Mapping[str, ModelArtifact], members: Sequence[str]) -> dict[str, bytes]:
        """Return the configuration of every model and ensemble, by plain name, ensembles last."""
        configs: dict[str, bytes] = {}
        for name in members:
            artifact = by_name[name]
            digest = hashlib.sha256(artifact.onnx).hexdigest()
            parameters = {"feature_hash": artifact.card.feature_hash, "sha256": digest}
            template = self._template(name)
            device: Device = "cpu" if is_quantised(artifact) else self.device
            configs[name] = render_config(template, version, artifact.onnx, parameters, device=device)
        parameters = {"feature_hash": by_name[members[0]].card.feature_hash}
        graphs = (SIMPLE,) if set(members) <= set(SIMPLE_MODELS) else (SIMPLE, ENSEMBLE)
        ensembles = {graph: render_ensemble(self._template(graph), version, configs, parameters) for graph in graphs}
        return {**configs, **ensembles}

    def _write_models(
        self,
        version: int,
        by_name: Mapping[str, ModelArtifact],
        members: Sequence[str],
        configs: Mapping[str, bytes],
    ) -> dict[str, str]:
        files: dict[str, str] = {}
        for name, config in configs.items():
            contents = {"config.pbtxt": config}
            if name in members:
                contents[f"{version}/{MODEL_FILE}"] = by_name[name].onnx
            files |= self._place(f"{name}-r{version}", contents, version_folder=str(version))
        return files

    def _place(self, name: str, contents: Mapping[str, bytes], version_folder: str) -> dict[str, str]:
        """Write one model's folder aside, then rename it to its name."""
        aside = self.root / f".{name}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        (aside / version_folder).mkdir(parents=True)
        for place, content in contents.items():
            self._write(aside / place, content)
            if self._weights is not None:
                self._weights.keep_weights(content)
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
        return self._templates / name / "config.pbtxt"

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
        """Return the manifest after comparing every file with its recorded hash; one that is lost is put back.

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
            found = hashlib.sha256(self._content(path, version, digest)).hexdigest()
            if found != digest:
                raise ReleaseError(
                    f"{path}: not the file of release {version} (SHA-256 {found[:12]}, recorded {digest[:12]})",
                    mend="release again; the earlier release goes on serving",
                )
        return manifest

    def _content(self, path: Path, version: int, digest: str) -> bytes:
        """Return a file, put back by its hash where it is missing.

        Raises:
            ReleaseError: it is missing, and nobody kept it.
        """
        if not path.exists() and self._weights is not None:
            kept = self._weights.weights(digest)
            if kept is not None:
                self._write(path, kept)
                _log.warning("%s was missing from release %d: put back from the shared cache", path, version)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ReleaseError(f"{path}: missing from release {version}", mend="release again") from error

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

    def contents(self, manifest: ReleaseManifest) -> dict[str, bytes]:
        """Return the ONNX bytes of a release's models by name, as they are served.

        Raises:
            ReleaseError: a file is missing.
        """
        found = {}
        for name in manifest.members:
            place = f"{manifest.served_name(name)}/{manifest.version}/{MODEL_FILE}"
            found[name] = self._content(self.root / place, manifest.version, manifest.files[place])
        return found

    def prune(self, *, keep: int, wanted: Collection[int] = ()) -> list[int]:
        """Remove all but the ``keep`` (at least 1) newest releases and the wanted ones; return what was removed."""
        if keep < 1:
            raise ReleaseError(f"cannot keep {keep} releases", mend="keep at least 1")
        removed = [version for version in self.versions()[:-keep] if version not in wanted]
        for version in removed:
            self.discard(version)
        return removed

    def _manifest_path(self, version: int) -> Path:
        return self.root / "releases" / f"{version}.json"


def _answers(artifacts: Sequence[ModelArtifact], inputs: ModelInputs) -> dict[str, NDArray]:
    """Return the canary's answers.

    Raises:
        ReleaseError: a model does not run, has no place in the graph, or says what no answer may be.
    """
    graph = Graph(artifacts)
    answers = graph.run(inputs.tensors())
    try:
        discarded = validated(answers, directions(graph.members), len(inputs), graph.outputs).discarded
    except ModelCallError as error:
        raise ReleaseError(f"the canary: {error}", mend="train the models again") from error
    if discarded:
        bad = discarded[0]
        raise ReleaseError(
            f"the canary: {bad} is {answers[bad].tolist()}, out of its range", mend="train its model again"
        )
    return answers


def _sync_folder(folder: Path) -> None:
    """Make names in a folder durable: a rename is lost in a power failure otherwise."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_one_catalogue(artifacts: Sequence[ModelArtifact], sample: ModelInputs) -> None:
    if not artifacts:
        raise ReleaseError("a release without models", mend="train the models first")
    first = artifacts[0].card
    if not len(sample) or sample.features.shape[1] != len(first.feature_names):
        raise FeatureMismatchError(
            f"the canary's sample is {sample.features.shape}, {first.name} has {len(first.feature_names)} features",
            mend="take it from the rows that the models were trained on",
        )
    for artifact in artifacts[1:]:
        if artifact.card.feature_hash != first.feature_hash:
            raise FeatureMismatchError(
                f"{first.name} was trained on catalogue {first.feature_hash[:12]}, {artifact.name} on "
                f"{artifact.card.feature_hash[:12]}",
                mend="train all models again",
            )
