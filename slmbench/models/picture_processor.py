"""The processor of pictures that comes with a checkpoint, run by transformers and Pillow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import BadInputError, CannotRunError, first_error_line
from slmbench.system.extras import needed
from slmbench.system.files import json_object

#: How a checkpoint says what is done to a picture before the network sees it.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
MakePixels = Callable[[Sequence[NDArray[np.uint8]]], Mapping[str, NDArray[Any]]]


def processor_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the folder's processor of pictures, empty where it has none.

    transformers 5 writes them into the settings of the whole processor, and reads those first.

    Raises:
        BadInputError: a file that is no JSON object.
    """
    alone, whole = (folder / name for name in PROCESSOR_FILES)
    nested = json_object(whole).get("image_processor") if whole.is_file() else None
    if isinstance(nested, dict):
        return nested
    return json_object(alone) if alone.is_file() else {}


def has_own_processor(folder: Path) -> bool:
    """Return whether the folder says how its pictures are prepared.

    Raises:
        BadInputError: a file of settings that is no JSON object.
    """
    return bool(processor_settings(folder))


def own_processor(folder: Path) -> tuple[MakePixels, str]:
    """Return what turns pictures ``[height, width, 3]`` into arrays by name, tiles first; and its settings in a line.

    Raises:
        BadInputError: the folder's settings are of no processor that transformers has.
        CannotRunError: transformers is missing.
    """
    try:
        from transformers import AutoImageProcessor
    except ImportError as error:
        raise CannotRunError(needed(error, "to prepare pictures as the checkpoint does")) from error
    try:
        own = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a stranger's file: whatever transformers raises is about it
        where = next(path for name in PROCESSOR_FILES if (path := folder / name).is_file())
        raise BadInputError(f"{where}: not a processor of pictures: {first_error_line(error)}") from error
    # Those that cut pictures into tiles take a list of pictures for each text.
    nests = hasattr(own, "do_image_splitting")

    # Into how many rows and columns, which the prompt says too.
    asked = {"return_row_col_info": True} if hasattr(own, "return_row_col_info") else {}

    def make(pictures: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
        found = own(images=[list(pictures)] if nests else list(pictures), return_tensors="np", **asked)
        return {name: _tiles_first(name, np.asarray(value)) for name, value in found.items()}

    size = getattr(own, "size", None)
    tiles = f", cut into tiles: {own.do_image_splitting}" if nests else ""
    return make, f"{type(own).__name__}, size {dict(size) if size else 'its own'}{tiles}"


def _tiles_first(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return arrays whose first axis is the text's with the tiles first instead."""
    axes = {"pixel_values": 5, "pixel_attention_mask": 4}.get(name)
    return values.reshape(-1, *values.shape[2:]) if axes == values.ndim else values
