"""What a request to open names, checked: the artifact and the engine's options."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from slmbench.backend import Backend, SessionOptions
from slmbench.errors import BadInputError
from slmbench.models.artifact import Artifact, damage, read_artifact, same_content
from slmbench.worker import protocol as p


def checked_artifact(request: p.Open) -> Artifact:
    """Return the artifact, whose files are those whose hashes were checked: no engine opens any other.

    Raises:
        BadInputError: it was changed since, or is damaged.
    """
    artifact = read_artifact(request.artifact)
    if request.stamp and artifact.stamp == request.stamp:
        return artifact
    problem = damage(artifact)
    if problem is None and request.stamp and not same_content(artifact.stamp, request.stamp):
        problem = f"{artifact.folder}: was replaced after this run began to measure it"
    if problem is not None:
        raise BadInputError(problem)
    return artifact


def checked_options(backend: Backend, given: dict[str, Any]) -> SessionOptions:
    """Return the backend's options.

    Raises:
        BadInputError: one is not what it takes.
    """
    try:
        return backend.options_type.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"option {'.'.join(map(str, first['loc']))} of {backend.name}: {first['msg']}") from error
