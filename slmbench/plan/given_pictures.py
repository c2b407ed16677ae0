"""GGUF files of the user in a run with pictures: each with its projector file, and with what its reference says.

A projector file says how pixels become rows of features. Which pixels, and by which tokens a picture stands in a
prompt, is said by the checkpoint alone that both files were made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.errors import BadInputError
from slmbench.given.projector_file import ProjectorFile, check_projector, check_width, chosen, read_projector
from slmbench.models import projector_layout
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.given_record import GivenFile, weight_types
from slmbench.models.picture_processor import PROCESSOR_FILES
from slmbench.models.vision_facts import VisionFacts
from slmbench.plan.suite import Suite
from slmbench.system.digests import sha256_remembered

if TYPE_CHECKING:
    from slmbench.plan.request import RunRequest


def with_projectors(
    checkpoints: Mapping[str, Checkpoint], reference: Checkpoint | None, suite: Suite, request: RunRequest
) -> dict[str, Checkpoint]:
    """Return the models, GGUF files together with their projector files where the run has pictures.

    Raises:
        BadInputError: a projector file is damaged or of another model, one of several has to be named, or there is no
            reference.
    """
    pictures = request.image is not None or any(max(sweep.images) > 0 for sweep in suite.workloads)
    files = [name for name, one in checkpoints.items() if one.given and one.given.layout == "gguf" and one.path]
    if request.mmproj is not None and not (pictures and files):
        raise BadInputError("--mmproj goes with a GGUF file of yours and pictures: --model FILE.gguf --images 1")
    found = dict(checkpoints)
    for name in files if pictures else ():
        found[name] = _with_projector(found[name], reference, request.mmproj)
    return found


def _with_projector(model: Checkpoint, reference: Checkpoint | None, named: Path | None) -> Checkpoint:
    """Return the model with its projector file, if there is one."""
    assert model.path is not None
    path = chosen(model.path, named)
    if path is None:
        return model
    projector = read_projector(path)
    refusal = projector.refusal()
    if refusal is not None:
        return _joined(model, projector, _unread(refusal), b"")
    check_width(projector, model)
    if reference is None:
        raise BadInputError(
            f"{model.name} with {projector.name}: neither says which tokens stand for a picture, nor how it is "
            "prepared; name the checkpoint that they were made of: --reference FOLDER"
        )
    if reference.vision is None:
        raise BadInputError(
            f"--reference {reference.name}: takes no pictures; {projector.name} was made of one that does"
        )
    if reference.vision.refusal is not None:
        return _joined(model, projector, reference.vision, b"")
    # How far image tokens see each other is said by no key of the file that is read here.
    windows = model.geometry.model_copy(update={"windows": reference.geometry.windows})
    joined = _joined(model.model_copy(update={"geometry": windows}), projector, reference.vision, _settings(reference))
    reason = projector_layout.refusal(joined)
    if reason is not None:
        return joined.model_copy(update={"vision": _unread(reason)})
    check_projector(projector, joined, f"--reference {reference.name}")
    return joined


def _joined(model: Checkpoint, projector: ProjectorFile, vision: VisionFacts, settings: bytes) -> Checkpoint:
    """Return a model that is two files; ``settings``, how pictures are prepared for it, are part of its identity."""
    given = model.given
    assert given is not None
    try:
        size, sha256 = projector.path.stat().st_size, sha256_remembered(projector.path)
    except OSError as error:
        raise BadInputError(f"{projector.path}: cannot be read: {error.strerror}") from error
    record = given.model_copy(
        update={
            "files": (*given.files, GivenFile(path=projector.name, size_bytes=size, sha256=sha256)),
            "graphs": (*given.graphs, ("vision", projector.name)),
            "vision_types": weight_types(projector.header.by_type()),
        }
    )
    digest = hashlib.sha256(b"\0".join([model.digest.encode(), sha256.encode(), settings])).hexdigest()
    return model.model_copy(update={"given": record, "vision": vision, "digest": digest})


def _settings(reference: Checkpoint) -> bytes:
    """Return the contents of the files that say how pictures are prepared."""
    folder = reference.path
    files = [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()] if folder else []
    return b"".join(path.read_bytes() for path in files)


def _unread(refusal: str) -> VisionFacts:
    """Return facts of a vision part that is not run, with why."""
    ones = dict.fromkeys(("image_size", "patch_size", "layers", "width", "ffn_width", "heads", "tokens_per_tile"), 1)
    return VisionFacts.model_validate({**ones, "image_token_id": 0, "refusal": refusal})
