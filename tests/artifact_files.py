"""Artifacts of any size without an export: only their way from one machine to another is meant."""

from __future__ import annotations

from pathlib import Path

from folders import make_folder

from slmbench.export.artifact_store import artifacts_dir, write_manifest
from slmbench.models.artifact import GOLDEN_NAME, Artifact, ArtifactSpec, FileEntry, GoldenRecord, Manifest, sha256_of
from slmbench.models.checkpoint import Checkpoint, checkpoint_of_folder

SPEC = ArtifactSpec(format="openvino")


def checkpoint_elsewhere(folder: Path) -> Checkpoint:
    """Return a checkpoint as another machine sees it: described, and not there."""
    return checkpoint_of_folder(make_folder(folder)).model_copy(update={"path": None})


def write_artifact(checkpoint: Checkpoint, files: dict[str, bytes], spec: ArtifactSpec = SPEC) -> Artifact:
    """Write an artifact with these files, and a golden record, into the store of ``SLMBENCH_CACHE``."""
    folder = artifacts_dir() / spec.artifact_id(checkpoint.digest)
    files = files | {GOLDEN_NAME: GoldenRecord(prompts=(), versions={}).model_dump_json().encode()}
    entries = []
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        entries.append(FileEntry(path=name, size_bytes=len(data), sha256=sha256_of(path)))
    manifest = Manifest(
        artifact_id=folder.name, spec=spec, checkpoint=checkpoint, graphs={"model": next(iter(files))},
        files=tuple(entries), attention="none", decode_weight_bytes=1, versions={}, created="", export_seconds=0,
    )  # fmt: skip
    write_manifest(folder, manifest.model_dump_json().encode())
    return Artifact(folder, manifest)
