"""What the safetensors files of a folder hold, read without torch: parameters, ties, a digest.

A safetensors file is eight bytes (the header's length, little-endian), a JSON header naming each tensor's type,
shape and byte range, and the data. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from slmbench.errors import BadInputError, SlmbenchError, one_line
from slmbench.system.files import read_regular, write_whole
from slmbench.system.paths import cache_dir

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

#: The format's own limit on the header.
_MAX_HEADER_BYTES = 100_000_000
#: Dimensions that a tensor of a model has at most, with room to spare.
_MAX_RANK = 16
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "U16": 16,
    "U32": 32, "U64": 64, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8,
}  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
#: Tensors that an architecture may tie with one another, by the end of their names.
_EMBEDDINGS = (
    "shared.weight", "embed_tokens.weight", "lm_head.weight", "lm_head.out_proj.weight", "wte.weight",
    "embed_in.weight", "embed_out.weight", "word_embeddings.weight",
)  # fmt: skip
_HEADS = ("lm_head", "embed_out", "output_projection")
#: Constants that are saved with the weights.
_BUFFERS = ("final_logits_bias", "inv_freq", ".attn.bias", ".attention.bias", ".masked_bias")
#: Parts of names where pictures or sound go in, and of heads that guess further tokens: not of the measured part.
_TEXT = ("language_model", "text_model")
_NOT_TEXT = ("vision", "visual", "image", "audio", "speech", "projector", "connector", "mtp")
#: Ends of names that quantised weights bring: GPTQ and AWQ, compressed-tensors, fp8, bitsandbytes, MXFP4, MLX.
_PACKED = (
    ".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".absmax", ".SCB",
    "_proj_blocks", "_proj_scales", ".scales",
)  # fmt: skip
_LAYER = re.compile(r"(?:(.*?)\.)??(?:layers|layer|blocks|block|h)\.(\d+)\.")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file; ``begin`` and ``end`` count from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Return the number of its elements."""
        return math.prod(self.shape)


class Weights(BaseModel):
    """What slmbench keeps about a folder's weights, so that they are read once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: SHA-256 over the weight files, in the order of their names.
    sha256: str
    #: Elements of all floating-point tensors; equal embeddings once.
    parameter_count: int
    #: The LM head is absent or equal to the embedding.
    tied_embeddings: bool
    #: Shapes of the embedding tensors, to compare with the config.
    embedding_shapes: tuple[tuple[int, ...], ...]
    #: Elements of all matrices but embeddings and tables of positions.
    matrix_elements: int
    #: Layers by what stands before their number in the names of tensors: "model.layers.0." counts for "model".
    layer_counts: dict[str, int]
    #: A tensor that only quantised weights have.
    packed: str | None
    #: Rows of the projections to queries and to keys, where they are matrices of their own.
    query_rows: tuple[int, ...]
    key_rows: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers would load from ``folder``.

    Raises:
        BadInputError: there are none, only pickles, or an index that names files which are not there.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            table = json.loads(read_regular(index))["weight_map"]
            names = sorted({str(name) for name in table.values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInputError(f"{index}: not a safetensors index") from error
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise BadInputError(f"{index}: '{one_line(outside[0])}' is not a file of this folder")
        missing = [name for name in names if "\0" in name or not (folder / name).is_file()]
        if missing or not names:
            raise BadInputError(f"{index}: names {len(missing)} files that are not there ({', '.join(missing[:2])})")
        return [folder / name for name in names]
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise BadInputError(pickle_only(str(folder), pickles[0]))
    raise BadInputError(f"{folder}: no weights: neither {SINGLE_NAME} nor {INDEX_NAME} is there")


def pickle_only(where: str, name: str) -> str:
    """Return the line that says why a pickle is not loaded and how to convert it."""
    return (
        f"{where}: only pickled weights ({name}), and a pickle can run code. `slmbench run --convert-pickles` turns "
        "them into safetensors once, loading tensors and nothing else. Many Hub repositories have a converted "
        "revision: look for the pull request 'Adding safetensors', and give it as org/name@refs/pr/NUMBER"
    )


def read_header(path: Path) -> list[Tensor]:
    """Return the tensors of a safetensors file, checked against the file's size.

    Raises:
        BadInputError: the header is cut off, has wrong sizes, or is not a safetensors header.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                raise BadInputError(f"{path}: not a safetensors file: its header claims {length} of {size} bytes")
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not a safetensors file: {_short(error)}") from error
    if not isinstance(header, dict):
        raise BadInputError(f"{path}: not a safetensors file: its header is not an object")
    tensors = [_tensor(path, name, entry, 8 + length, size) for name, entry in header.items() if name != "__metadata__"]
    if not tensors:
        raise BadInputError(f"{path}: holds no tensors")
    return tensors


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> Tensor:
    where = f"{path}: tensor '{one_line(name)[:80]}'"
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{where} has no type, shape or byte range") from error
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise BadInputError(f"{where} is of an unsupported type '{one_line(str(dtype))[:20]}'")
    if len(shape) > _MAX_RANK:
        raise BadInputError(f"{where} claims {len(shape)} dimensions")
    if not numbers or not begin <= end <= size - start:
        raise BadInputError(f"{where} claims bytes beyond the file's end")
    if math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise BadInputError(f"{where} has {end - begin} bytes, its shape {list(shape)} of {dtype} needs others")
    return Tensor(name, dtype, shape, start + begin, start + end)


def inspect(files: list[Path], embedding: tuple[int, int], *, text_alone: bool = False) -> Weights:
    """Return what the files hold; remembered under the cache folder by path, size and time of change.

    Matrices of the shape ``embedding`` (vocabulary, width) are embeddings under any name. With
    ``text_alone`` the tensors for pictures and sound do not count.

    Raises:
        BadInputError: a file that is not whole.
    """
    tensors = [(path, tensor) for path in files for tensor in read_header(path)]
    if text_alone:
        tensors = _of_text(tensors)
    key = hashlib.sha256(os.fsencode("\n".join(str(path.resolve()) for path in files))).hexdigest()[:32]
    stamp: list[Any] = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    stamp.append([*embedding, text_alone])
    remembered = cache_dir() / "weights" / f"{key}.json"
    known = _recall(remembered, stamp)
    if known is not None:
        return known
    weights = _inspect(files, tensors, embedding)
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(OSError, SlmbenchError):
        _remember(remembered, stamp, weights)
    return weights


def _of_text(tensors: list[tuple[Path, Tensor]]) -> list[tuple[Path, Tensor]]:
    """Return the tensors of the text part alone, by their names."""
    parts = [(set(tensor.name.split(".")), path, tensor) for path, tensor in tensors]
    texts = [part for part, _, _ in parts if part.intersection(_TEXT)]
    if texts:
        # Where pictures go into the encoder, the decoder is text as a whole.
        of_text = {*_TEXT, "lm_head", *(["decoder"] if any("encoder" in part for part in texts) else [])}
        return [(path, one) for part, path, one in parts if part & of_text]
    return [(path, one) for _, path, one in parts if not any(word in one.name for word in _NOT_TEXT)]


def _inspect(files: list[Path], tensors: list[tuple[Path, Tensor]], embedding: tuple[int, int]) -> Weights:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    embeddings = {t.name: _content(p, t) for p, t in tensors if t.name.endswith(_EMBEDDINGS) or t.shape == embedding}
    seen: set[str] = set()
    count = matrix_elements = 0
    for _, tensor in tensors:
        content = embeddings.get(tensor.name)
        is_parameter = tensor.dtype.startswith(("F", "BF")) and not tensor.name.endswith(_BUFFERS)
        if is_parameter and (content is None or content not in seen):
            count += tensor.elements
        if content is not None:
            seen.add(content)
        elif is_parameter and len(tensor.shape) > 1 and not _is_positions(tensor.name):
            matrix_elements += tensor.elements
    heads = {content for name, content in embeddings.items() if any(word in name for word in _HEADS)}
    inputs = {content for name, content in embeddings.items() if not any(word in name for word in _HEADS)}
    return Weights(
        sha256=digest.hexdigest(),
        parameter_count=count,
        tied_embeddings=not heads or heads <= inputs,
        embedding_shapes=tuple({t.shape for _, t in tensors if t.name in embeddings}),
        matrix_elements=matrix_elements,
        layer_counts=_layer_counts([t.name for _, t in tensors]),
        packed=next((one_line(t.name)[:80] for _, t in tensors if t.name.endswith(_PACKED)), None),
        query_rows=_rows(tensors, ("q_proj.weight", ".q.weight")),
        key_rows=_rows(tensors, ("k_proj.weight", ".k.weight")),
    )


def _is_positions(name: str) -> bool:
    return "position" in name or name.endswith("wpe.weight")


def _layer_counts(names: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for match in filter(None, map(_LAYER.match, names)):
        found[match[1] or ""] = max(found.get(match[1] or "", 0), int(match[2][:9]) + 1)
    return found


def _rows(tensors: list[tuple[Path, Tensor]], ends: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(sorted({t.shape[0] for _, t in tensors if len(t.shape) == 2 and t.name.endswith(ends)}))


def _content(path: Path, tensor: Tensor) -> str:
    """Return a hash of the tensor's shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}".encode())
    with path.open("rb") as file:
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left > 0 and (block := file.read(min(left, 1 << 22))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _recall(path: Path, stamp: list[Any]) -> Weights | None:
    try:
        record: Mapping[str, Any] = json.loads(path.read_bytes())
        return Weights.model_validate(record["weights"]) if record["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _remember(path: Path, stamp: list[Any], weights: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"stamp": stamp, "weights": weights.model_dump(mode="json")}))


def _short(error: Exception) -> str:
    return one_line(str(error))[:120] or type(error).__name__
