"""Artifacts whose tokens were wrong, or that an exporter failed on: "auto" does not choose their route again."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from slmbench.system.files import write_whole
from slmbench.system.paths import cache_dir
from slmbench.terms import StrictModel


class FailedProof(StrictModel):
    """Which backend found the tokens wrong, what it said, and which versions made the artifact.

    Without a backend there was no artifact to ask: the exporter failed.
    """

    backend: str | None
    message: str
    versions: dict[str, str]


def failed_proof(artifact_id: str) -> FailedProof | None:
    """Return the failure that is remembered of an artifact, or None; a damaged note counts as none."""
    try:
        return FailedProof.model_validate_json(_path(artifact_id).read_bytes())
    except (OSError, ValidationError):
        return None


def remember_failed_proof(artifact_id: str, failure: FailedProof) -> None:
    """Note that an artifact's tokens are wrong, or that it cannot be made."""
    path = _path(artifact_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, failure.model_dump_json(indent=1))


def forget_failed_proof(artifact_id: str) -> None:
    """Remove the note: the tokens came out right."""
    _path(artifact_id).unlink(missing_ok=True)


def _path(artifact_id: str) -> Path:
    return cache_dir() / "failed-proofs" / f"{artifact_id}.json"
