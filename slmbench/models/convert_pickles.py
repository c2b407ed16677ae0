"""Pickled weights to safetensors: once, on request, in a process of its own that loads tensors and nothing else.

``python -m slmbench.models.convert_pickles FROM TO FILE...`` is that process; :func:`as_safetensors` starts it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from slmbench.errors import ERROR_PREFIX, BadInputError, one_line
from slmbench.models.converted import converted
from slmbench.models.safetensors import INDEX_NAME, SINGLE_NAME
from slmbench.system.files import read_regular
from slmbench.system.processes import follow_host, go_first

SINGLE_PICKLE = "pytorch_model.bin"
INDEX_OF_PICKLES = "pytorch_model.bin.index.json"


def is_pickled(folder: Path) -> bool:
    """Return whether a folder has its weights in pickles alone."""
    has_safetensors = any((folder / name).is_file() for name in (SINGLE_NAME, INDEX_NAME))
    return not has_safetensors and any((folder / name).is_file() for name in (SINGLE_PICKLE, INDEX_OF_PICKLES))


def as_safetensors(folder: Path) -> tuple[Path, str]:
    """Return a folder in the cache with the same checkpoint in safetensors, and what its weights were made from.

    Raises:
        BadInputError: a shard is missing, or a file holds something else than tensors.
    """
    names = _pickles(folder)
    target, hashes = converted(folder, [folder / name for name in names], "slmbench.models.convert_pickles", names)
    return target, f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}, sha256 {hashes[names[0]][:12]}"


def _pickles(folder: Path) -> list[str]:
    index = folder / INDEX_OF_PICKLES
    if not index.is_file():
        return [SINGLE_PICKLE]
    try:
        names = sorted({str(name) for name in json.loads(read_regular(index))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"{index}: not an index of weights") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise BadInputError(f"{index}: names '{one_line(name)[:80]}', which is not in this folder")
    return names


def _write(source: Path, target: Path, names: list[str]) -> None:
    """Load each file as tensors alone and write it as safetensors, with an index where there are several."""
    import torch
    from safetensors.torch import save_file

    placed: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        try:
            state: Any = torch.load(source / name, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling raises whatever a file makes of it
            raise BadInputError(
                f"{name} holds something else than tensors, and is not loaded: {_first(error)}"
            ) from error
        if not isinstance(state, dict) or not all(isinstance(one, torch.Tensor) for one in state.values()):
            raise BadInputError(f"{name} is not a table of tensors by their names")
        seen: set[int] = set()
        tensors = {}
        for key, tensor in state.items():
            # Tied tensors are one in the pickle; each gets bytes of its own, and slmbench sees that they are equal.
            shared = tensor.untyped_storage().data_ptr() in seen
            seen.add(tensor.untyped_storage().data_ptr())
            tensors[str(key)] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
        file = SINGLE_NAME if len(names) == 1 else f"model-{number:05d}-of-{len(names):05d}.safetensors"
        save_file(tensors, target / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(tensors, file))
    if len(names) > 1:
        (target / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": placed}), encoding="utf-8")


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0])[:160] if lines else type(error).__name__


if __name__ == "__main__":
    follow_host()
    go_first()
    try:
        _write(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    except BadInputError as error:
        sys.exit(f"{ERROR_PREFIX}{error}")
