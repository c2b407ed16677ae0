"""The networks of an artifact in torch: the text network, and the vision part where pictures go in."""

from __future__ import annotations

from typing import Any, NamedTuple

from slmbench.errors import CannotRunError, one_line
from slmbench.models.artifact import Artifact
from slmbench.models.network import load_folder

from .artifact_files import check_files


class Networks(NamedTuple):
    """What a session runs."""

    text: Any
    #: Pixels in the order of ``inputs`` → features; None for text alone.
    vision: Any = None
    inputs: tuple[str, ...] = ()


def load_networks(artifact: Artifact, precision: str) -> Networks:
    """Return the networks in eval mode, with torch's fused attention where transformers offers it.

    Raises:
        BadInputError: the folder holds something else than the manifest's checkpoint.
        CannotRunError: transformers does not load it.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    checkpoint = artifact.manifest.checkpoint
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    check_files(artifact)
    try:
        if artifact.manifest.spec.pictures:
            from slmbench.models.picture_parts import load_parts_of_folder

            assert checkpoint.vision is not None
            found, lacking = load_parts_of_folder(artifact.folder, checkpoint.family, checkpoint.vision, dtype=dtype)
            loaded = Networks(found.text, found.vision, found.inputs)
        else:
            # Without its code, trusted or not: who trusts a checkpoint does not trust whoever sends an artifact of it.
            model, lacking = load_folder(artifact.folder, checkpoint.family, dtype=dtype)
            loaded = Networks(model)
    except Exception as error:  # safetensors and transformers raise many kinds for a damaged folder
        raise CannotRunError(f"{artifact.folder}: transformers cannot load it: {one_line(str(error))[:200]}") from error
    if lacking:
        raise CannotRunError(f"{artifact.folder}: the weights lack {len(lacking)} parameters, as {min(lacking)}")
    return loaded
