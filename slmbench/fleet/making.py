"""What a machine can make by itself: which checkpoints are on it, which exporters, and the export as a process."""

from __future__ import annotations

from typing import Literal

from slmbench.errors import CannotRunError, SlmbenchError
from slmbench.export.artifact_store import find_artifact
from slmbench.export.routes import missing_libraries, refusal
from slmbench.fleet.messages import Needed, Wanted
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.plan.planner import Plan
from slmbench.plan.request import RunRequest


def localized(request: RunRequest) -> RunRequest:
    """Return the request with those of its checkpoints that are on this machine resolved here."""
    found = tuple((name, _here(one, request.trust_remote_code)) for name, one in request.checkpoints)
    return request.model_copy(update={"checkpoints": found})


def needs(plan: Plan) -> tuple[Needed, ...]:
    """Return the artifacts that a plan's cases open, and what this machine has of them. Nothing is hashed yet."""
    found = []
    for checkpoint, spec in plan.artifacts():
        keys = tuple(c.case.key for c in plan.cells if (c.checkpoint, c.spec) == (checkpoint, spec))
        here = find_artifact(checkpoint, spec, hashes=False) is not None
        why = None if here else cannot_make(checkpoint, spec)
        state: Literal["here", "makes", "lacks"] = "here" if here else "makes" if why is None else "lacks"
        found.append(Needed(checkpoint_digest=checkpoint.digest, spec=spec, keys=keys, state=state, why=why or ""))
    return tuple(found)


def cannot_make(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this machine cannot export the artifact (one line), or None when it can."""
    if not checkpoint.is_here:
        return f"{checkpoint.name} is not on it"
    missing = missing_libraries(spec)
    return f"not installed: {', '.join(missing)}" if missing else refusal(checkpoint, spec)


def make(wanted: Wanted) -> None:
    """Export into this machine's store.

    Raises:
        CannotRunError: it cannot, or the exporter fails.
    """
    from slmbench.export.build import ensure_artifact

    checkpoint = _here(wanted.checkpoint, wanted.trust_remote_code)
    why = cannot_make(checkpoint, wanted.spec)
    if why is not None:
        raise CannotRunError(why)
    ensure_artifact(checkpoint, wanted.spec, progress=lambda line: print(line, flush=True))


def _here(checkpoint: Checkpoint, trust_remote_code: bool) -> Checkpoint:
    """Return the checkpoint as it is on this machine, where it is; a folder of another machine never is."""
    if checkpoint.source == "folder":
        return checkpoint
    reference = f"{checkpoint.name}@{checkpoint.revision}" if checkpoint.source == "hub" else checkpoint.name
    try:
        found = resolve(reference, offline=True, trust_remote_code=trust_remote_code)
    except SlmbenchError:
        return checkpoint
    return found if found.digest == checkpoint.digest else checkpoint
