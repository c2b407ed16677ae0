"""The projector file of a GGUF model that the user brings: which one is meant, what it is, whether the two fit.

People have the files of llama.cpp's converters, of several years. Those differ from slmbench's own in what they say of
themselves, and some call the two matrices of a feed-forward block by each other's name. libmtmd takes them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError, one_line
from slmbench.given import gguf
from slmbench.given.description import files_of, short
from slmbench.given.gguf_reader import GgufHeader, read_header
from slmbench.models import projector_layout as layout
from slmbench.models.checkpoint import Checkpoint

#: What people do instead with a projector that slmbench does not run.
_INSTEAD = (
    "; measure the checkpoint that the files were made of: `slmbench run --backend openvino`, onnxruntime or torch"
)
#: What files may leave out, and what libmtmd takes then.
_DEFAULTS: Mapping[str, Any] = {"clip.use_gelu": False}
_GEMMA_SCALE = {"clip.vision.projector.scale_factor": 4}
#: Not compared: what it calls itself, and how libmtmd would cut pictures that it does not get.
_OWN = ("general.architecture", "general.type", "clip.projector_type", "clip.vision.preproc_image_size")
_SIDE, _LONGER_SIDE = "clip.vision.image_size", "clip.vision.preproc_image_size"


@dataclass(frozen=True)
class ProjectorFile:
    """A projector file whose header was read."""

    path: Path
    header: GgufHeader
    #: libmtmd's name of what stands behind the vision transformer.
    kind: str

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self.path.name

    def refusal(self) -> str | None:
        """Return why slmbench has no loop for it, or libmtmd computes it wrongly; None where neither is so."""
        if self.kind not in layout.PROJECTORS.values():
            known = ", ".join(dict.fromkeys(layout.PROJECTORS.values()))
            return f"{self.name} is of the type '{self.kind}', slmbench runs those of the types {known}{_INSTEAD}"
        if any(one.name == "v.class_embd" for one in self.header.tensors):
            return layout.ROWS_OF_CLIP + _INSTEAD
        if tiles_across(self.header) is None:
            return f"{self.name} has pictures cut into tiles that are no whole number{_INSTEAD}"
        return None


def next_to(folder: Path) -> list[str]:
    """Return the names of the projector files in a folder.

    Raises:
        BadInputError: it cannot be read.
    """
    try:
        return [name for name in files_of(folder) if gguf.is_projector(name)]
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be read: {error.strerror}") from error


def chosen(folder: Path, named: Path | None) -> Path | None:
    """Return the projector file in the folder of a model: the one that is named, or the only one; None without one.

    Raises:
        BadInputError: there are several and none is named, or the named one is not there.
    """
    if named is not None:
        there = named if named.is_file() else folder / named
        if not there.is_file():
            raise BadInputError(f"--mmproj {named}: no such file")
        if there.parent.resolve() != folder.resolve():
            raise BadInputError(f"--mmproj {named}: must be in the folder of the model: {folder}")
        return folder / there.name
    found = next_to(folder)
    if len(found) > 1:
        listed = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
        raise BadInputError(
            f"{folder}: holds {len(found)} projector files: {listed}; name one: --mmproj {folder / found[0]}"
        )
    return folder / found[0] if found else None


def read_projector(path: Path) -> ProjectorFile:
    """Return what a projector file is.

    Raises:
        BadInputError: it is damaged, no projector, or one for sound alone.
    """
    header = read_header(path)
    values = header.values
    if header.architecture != layout.ARCHITECTURE:
        what = short(header.architecture)[:60] or "nothing"
        raise BadInputError(f"{path}: no projector file: its header says '{what}', not '{layout.ARCHITECTURE}'")
    if values.get("clip.has_vision_encoder") is not True:
        sound = values.get("clip.has_audio_encoder") is True
        raise BadInputError(f"{path}: a projector for {'sound alone' if sound else 'something else than pictures'}")
    if not header.tensors:
        raise BadInputError(f"{path}: a projector file without weights")
    kind = values.get("clip.vision.projector_type", values.get("clip.projector_type", "mlp"))
    return ProjectorFile(path, header, short(kind)[:60])


def check_width(found: ProjectorFile, checkpoint: Checkpoint) -> None:
    """Raise BadInputError where rows of features are not as wide as the model's embedding."""
    width = found.header.values.get("clip.vision.projection_dim")
    if width is None:
        raise BadInputError(f"{found.path}: its header does not say clip.vision.projection_dim")
    if width != checkpoint.geometry.width:
        raise BadInputError(
            f"{found.path}: its features are {_shown(width)} wide, the embedding of {checkpoint.name} "
            f"{checkpoint.geometry.width}: a projector of another model"
        )


def check_projector(found: ProjectorFile, checkpoint: Checkpoint, whose: str) -> None:
    """Compare a projector file with the vision part that ``checkpoint`` says it has; ``whose`` that is, for errors.

    Raises:
        BadInputError: a size differs, or a tensor is missing or of another shape.
    """
    values = found.header.values
    if found.kind != layout.kind_of(checkpoint):
        vision = layout.vision_of(checkpoint)
        raise BadInputError(f"{found.path}: is of the type '{found.kind}', {whose} is a {vision.model_type}")
    defaults = {**_DEFAULTS, **(_GEMMA_SCALE if found.kind == "gemma3" else {})}
    for name, expected in layout.header(checkpoint).items():
        reported = values.get(name, defaults.get(name))
        if name in _OWN or _fits(reported, expected):
            continue
        if reported is None:
            raise BadInputError(f"{found.path}: its header does not say {name}")
        wanted = "no sensible value" if isinstance(expected, type) else f"that of {whose} is {_shown(expected)}"
        raise BadInputError(f"{found.path}: its {name} is {_shown(reported)}, {wanted}")
    shapes = _shapes(found.header, layout.vision_of(checkpoint).width)
    required, optional = layout.required_shapes(checkpoint), layout.optional_shapes(checkpoint)
    for name, shape in {**{name: optional[name] for name in optional.keys() & shapes.keys()}, **required}.items():
        if shapes.get(name) != shape:
            there = _by_sides(shapes[name]) if name in shapes else "missing"
            raise BadInputError(f"{found.path}: '{name}' is {there}, that of {whose} is {_by_sides(shape)}")


def tiles_across(header: GgufHeader) -> int | None:
    """Return how many tiles libmtmd cuts from the longer side of a picture; None where they are no whole number.

    It brings a picture of SmolVLM's kind to the file's length first. Where the file says none it cuts it as it is.
    """
    side, longer = header.values.get(_SIDE), header.values.get(_LONGER_SIDE)
    if header.values.get("clip.projector_type") != "idefics3" or longer is None or type(side) is not int or side <= 0:
        return 1
    return longer // side if type(longer) is int and longer >= side and longer % side == 0 else None


def _shapes(header: GgufHeader, width: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors' shapes, those of feed-forward blocks by the names that are right.

    libmtmd exchanges them where the matrix that should bring a block's width back takes the layer's.
    """
    shapes = {one.name: one.shape for one in header.tensors}
    exchanged = shapes.get("v.blk.0.ffn_down.weight", ())[:1] == (width,)
    names = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"} if exchanged else {}
    return {_renamed(name, names): shape for name, shape in shapes.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    return ".".join(names.get(part, part) for part in name.split("."))


def _fits(reported: Any, expected: Any) -> bool:
    if expected is list:
        numbers = isinstance(reported, list) and len(reported) == 3
        return numbers and all(isinstance(one, float) and math.isfinite(one) for one in reported)
    if expected is float:
        return isinstance(reported, float) and 0 <= reported < math.inf
    if isinstance(expected, type):
        return type(reported) is expected
    return bool(reported == expected) and type(reported) is type(expected)


def _shown(value: Any) -> str:
    return one_line(f"{value}")[:60]


def _by_sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
