"""What a GGUF file says of itself, read before llama.cpp opens it.

A file can name others that hold a part of the tensors (``split.*``), and claim sizes that nobody has the memory for;
and an artifact may come from a stranger. So the engine sees a file only after this: it says what slmbench's exporter
writes and nothing else, of the manifest's checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.given import gguf_reader
from slmbench.given.projector_file import check_projector, check_width, read_projector
from slmbench.models import gguf_layout as layout
from slmbench.models import projector_layout
from slmbench.models.artifact import Artifact
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import ComputePrecision

#: What activations are brought into before they meet weights of ggml's type; quantised ones meet 8 bits.
_COMPUTE: dict[str, ComputePrecision] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


def matrix_types(artifact: Artifact) -> set[str]:
    """Return ggml's types of the file's matrices ("F32", "BF16", ...), when all that it says is known.

    Raises:
        CannotRunError: it is cut, is no GGUF file, or says something else than slmbench's exporter does.
    """
    path, checkpoint = artifact.graph("model"), artifact.manifest.checkpoint
    try:
        expected = layout.header(checkpoint, artifact.manifest.spec.weight_precision)
        return _read(path, expected, layout.optional_header(checkpoint))
    except (OSError, ValueError) as error:
        raise CannotRunError(
            f"{path}: not a GGUF file of slmbench's: {one_line(str(error))[:200]}; `slmbench export` writes a new one"
        ) from error


def projector_header(artifact: Artifact) -> gguf_reader.GgufHeader:
    """Return the header of the projector file, when all that it says is known and its tensors have the right shapes.

    Of a file that the user brings, what it says beyond that does not count.

    Raises:
        CannotRunError: it is cut, is no GGUF file, or says something else than slmbench's exporter does.
    """
    path, checkpoint = artifact.graph("vision"), artifact.manifest.checkpoint
    if checkpoint.given is not None:
        return _given_projector(path, checkpoint)
    try:
        header = gguf_reader.parse_header(path)
        _check_values(header.values, projector_layout.header(checkpoint))
        for name in ("clip.vision.image_mean", "clip.vision.image_std"):
            if len(header.values[name]) != 3 or not all(math.isfinite(one) for one in header.values[name]):
                raise ValueError(f"its {name} is {header.values[name]!r:.60}, expected are three numbers")
        shapes = {one.name: one.shape for one in header.tensors}
        required = projector_layout.required_shapes(checkpoint)
        known = {**required, **projector_layout.optional_shapes(checkpoint)}
        for name in sorted({*required, *shapes}):
            if shapes.get(name) != known.get(name):
                raise ValueError(f"'{name}' is {shapes.get(name)}, expected is {known.get(name)}")
        if strange := [one for one in header.tensors if one.type not in layout.TENSOR_TYPES]:
            raise ValueError(f"'{strange[0].name}' is of ggml's type {strange[0].type}")
        return header
    except (OSError, ValueError) as error:
        raise CannotRunError(
            f"{path}: not a projector file of slmbench's: {one_line(str(error))[:200]}; `slmbench export --pictures` "
            "writes a new one"
        ) from error


def _given_projector(path: Path, checkpoint: Checkpoint) -> gguf_reader.GgufHeader:
    try:
        found = read_projector(path)
        if (reason := found.refusal()) is not None:
            raise BadInputError(f"{path}: {reason}")
        check_width(found, checkpoint)
        check_projector(found, checkpoint, f"the reference of {checkpoint.name}")
    except BadInputError as error:
        raise CannotRunError(str(error)) from error
    return found.header


def compute_of_given(artifact: Artifact) -> ComputePrecision:
    """Return what products with most weights of a file that the user brings are computed in, by its header.

    Raises:
        CannotRunError: it is damaged, or llama.cpp would open parts that are not the artifact's.
    """
    path = artifact.graph("model")
    try:
        names = [part.name for part in gguf_reader.parts_of(path)]
        strangers = set(names) - {entry.path for entry in artifact.manifest.files}
        if strangers:
            raise BadInputError(f"{path}: its part {min(strangers)} is no part of the artifact")
        by_type = gguf_reader.read_parts([path.parent / name for name in names]).by_type()
    except BadInputError as error:
        raise CannotRunError(str(error)) from error
    largest = max(by_type, key=lambda name: by_type[name][1])
    return _COMPUTE.get(largest, "int8")


def _read(path: Path, expected: Mapping[str, Any], optional: Mapping[str, Any]) -> set[str]:
    header = gguf_reader.parse_header(path)
    found = header.values
    _check_values(found, {**expected, **{name: value for name, value in optional.items() if name in found}})
    if strange := [one for one in header.tensors if one.type not in layout.TENSOR_TYPES]:
        raise ValueError(f"'{strange[0].name}' is of ggml's type {strange[0].type}")
    # T5's table of relative positions is added, not multiplied with.
    return {one.type for one in header.tensors if len(one.shape) > 1 and "attn_rel_b" not in one.name}


def _check_values(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in found:
        if name not in expected:
            raise ValueError(f"'{name}' is not for an artifact to say")
    for name, value in expected.items():
        reported = found.get(name)
        if not _fits(reported, value):
            wanted = f"a {value.__name__}" if isinstance(value, type) else f"{value!r:.60}"
            raise ValueError(f"its {name} is {reported!r:.60}, expected is {wanted}")


def _fits(reported: Any, expected: Any) -> bool:
    if not isinstance(expected, type):
        return bool(reported == expected)
    number = isinstance(reported, (int, float)) and 0 <= reported < math.inf
    return type(reported) is expected and (number or expected in (list, str, bool))
