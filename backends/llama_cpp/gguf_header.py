"""What a GGUF file says of itself, read before llama.cpp opens it.

A file can name others that hold a part of the tensors (``split.*``), and claim sizes that nobody has the memory for;
and an artifact may come from a stranger. So the engine sees a file only after this: it says what slmbench's exporter
writes and nothing else, of the manifest's checkpoint.

Little-endian throughout: magic, version, the numbers of tensors and of values; each value with its name and type;
each tensor with its name, shape, type and place. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.given import gguf_reader
from slmbench.models import gguf_layout as layout
from slmbench.models.artifact import Artifact
from slmbench.system.files import open_regular
from slmbench.terms import ComputePrecision

#: The header of the largest model with 4096 layers is smaller.
_MOST_BYTES, _MOST_TENSORS, _MOST_VALUES, _LONGEST_TEXT = 1 << 25, 1 << 16, 64, 1 << 17
_VERSION, _ALIGNMENT, _MOST_DIMENSIONS = 3, 32, 4
_TYPES = {one.number: one for one in layout.TENSOR_TYPES.values()}
#: What activations are brought into before they meet weights of ggml's type; quantised ones meet 8 bits.
_COMPUTE: dict[str, ComputePrecision] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
#: Numbers of the types of values: uint32, int32, float32, yes or no, text, a list.
_UINT32, _INT32, _FLOAT32, _BOOL, _TEXT, _LIST = 4, 5, 6, 7, 8, 9
#: The largest vocabularies have 262,144 tokens, and about as many merges.
_LONGEST_LIST = 1 << 20
_CODES = {_UINT32: "I", _INT32: "i", _FLOAT32: "f", _BOOL: "?"}


class _HeaderReader:
    """Takes numbers and texts off the start of a file."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def take(self, code: str) -> Any:
        """Return the next number of that ``struct`` code.

        Raises:
            ValueError: the file ends before.
        """
        try:
            (value,) = struct.unpack_from("<" + code, self._data, self.place)
        except struct.error as error:
            raise ValueError("it ends within its header") from error
        self.place += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.take("Q")
        if length > _LONGEST_TEXT:
            raise ValueError(f"a text of {length} bytes in its header")
        raw: bytes = self.take(f"{length}s")
        return raw.decode("utf-8")


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
    with open_regular(path) as file:
        reader, size = _HeaderReader(file.read(_MOST_BYTES)), path.stat().st_size
    if reader.take("4s") != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, tensors, values = reader.take("I"), reader.take("Q"), reader.take("Q")
    if version != _VERSION:
        raise ValueError(f"it is of version {version}, not {_VERSION}")
    if tensors > _MOST_TENSORS or values > _MOST_VALUES:
        raise ValueError(f"it claims {tensors} tensors and {values} values")
    found = _values(reader, values)
    _check_values(found, {**expected, **{name: value for name, value in optional.items() if name in found}})
    return _types_of_matrices(reader, tensors, size)


def _values(reader: _HeaderReader, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        name, kind = reader.text(), reader.take("I")
        if name in found:
            raise ValueError(f"'{name}' is there twice")
        found[name] = _list(reader, name) if kind == _LIST else _value(reader, kind, name)
    return found


def _value(reader: _HeaderReader, kind: int, name: str) -> Any:
    if kind == _TEXT:
        return reader.text()
    if kind not in _CODES:
        raise ValueError(f"'{name}' is of a type that is not expected")
    return reader.take(_CODES[kind])


def _list(reader: _HeaderReader, name: str) -> list[Any]:
    kind, count = reader.take("I"), reader.take("Q")
    if count > _LONGEST_LIST:
        raise ValueError(f"'{name}' is a list of {count} values")
    return [_value(reader, kind, name) for _ in range(count)]


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


def _types_of_matrices(reader: _HeaderReader, count: int, size: int) -> set[str]:
    """Return the types of the tensors of two dimensions, each of which is whole in the file."""
    found, end = set(), 0
    for _ in range(count):
        name, dimensions = reader.text(), reader.take("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"'{name}' has {dimensions} dimensions")
        elements = math.prod(reader.take("Q") for _ in range(dimensions))
        kind, offset = reader.take("I"), reader.take("Q")
        if kind not in _TYPES:
            raise ValueError(f"'{name}' is of ggml's type {kind}")
        tensor_type = _TYPES[kind]
        end = max(end, offset + elements // tensor_type.block * tensor_type.block_bytes)
        # T5's table of relative positions is added, not multiplied with.
        if dimensions > 1 and "attn_rel_b" not in name:
            found.add(tensor_type.name)
    start = -(-reader.place // _ALIGNMENT) * _ALIGNMENT
    if start + end > size:
        raise ValueError(f"its tensors end at byte {start + end}, it has {size}")
    return found
