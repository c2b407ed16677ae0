"""An artifact that the user brings: a manifest of it in the cache; its files stay where they are."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.models.artifact import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    PLACE_NAME,
    Artifact,
    ArtifactSpec,
    FileEntry,
    GoldenRecord,
    Manifest,
    damage,
    given_dir,
    read_artifact,
)
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.given_record import CROSS_KV_AGAIN
from slmbench.models.picture_processor import PROCESSOR_FILES
from slmbench.system.files import read_regular, write_whole


def given_artifact(
    checkpoint: Checkpoint, spec: ArtifactSpec, reference: GoldenRecord | None, processor: Path | None = None
) -> Artifact:
    """Return the artifact that ``checkpoint`` is, with the tokens of its reference if there is one.

    ``processor`` is the folder whose settings prepare pictures, of an artifact that has none of its own.

    Raises:
        BadInputError: a file is gone or was changed since it was recognised, or the cache cannot be written.
    """
    given = checkpoint.given
    assert given is not None
    if checkpoint.path is None:
        raise BadInputError(f"{checkpoint.name}: its files are on another machine")
    golden = reference.model_dump_json() if reference else ""
    settings = _settings(processor)
    pictures = ["pictures", *(text for one in settings.items() for text in one)] if spec.pictures else []
    parts = [checkpoint.digest, str(checkpoint.path), golden, *pictures]
    # Of a GGUF model the projector is a file of its own, which a run of text alone never opens.
    graphs = {role: file for role, file in given.graphs if role != "vision" or spec.pictures or given.format != "gguf"}
    unread = {file for _, file in given.graphs} - set(graphs.values())
    files = [one for one in given.files if one.path not in unread]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    folder = given_dir() / name
    if not (folder / MANIFEST_NAME).is_file() or read_artifact(folder).manifest.checkpoint != checkpoint:
        manifest = Manifest(
            artifact_id=spec.artifact_id(checkpoint.digest),
            spec=spec,
            checkpoint=checkpoint,
            graphs=graphs,
            files=tuple(FileEntry(path=one.path, size_bytes=one.size_bytes, sha256=one.sha256) for one in files),
            attention=given.attention,
            cross_kv_once=None if checkpoint.family == "decoder-only" else CROSS_KV_AGAIN not in given.flags,
            decode_weight_bytes=given.decode_weight_bytes,
            versions=dict(given.producer),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            export_seconds=0.0,
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PLACE_NAME, json.dumps({"home": str(checkpoint.path)}))
        if golden:
            write_whole(folder / GOLDEN_NAME, golden)
        for file, text in settings.items():
            write_whole(folder / file, text)
        write_whole(folder / MANIFEST_NAME, manifest.model_dump_json(indent=1))
    artifact = read_artifact(folder)
    if (problem := damage(artifact)) is not None:
        raise BadInputError(problem)
    return artifact


def _settings(processor: Path | None) -> dict[str, str]:
    """Return the files of a folder that say how pictures are prepared, with what is in them.

    Raises:
        BadInputError: one cannot be read.
    """
    found = {}
    for path in [processor / name for name in PROCESSOR_FILES] if processor else ():
        if path.is_file():
            try:
                found[path.name] = read_regular(path).decode("utf-8", "replace")
            except OSError as error:
                raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    return found
