"""The header of a GGUF file, read with bounds: values, tensors, the parts of a split file.

Little-endian: magic, version, the numbers of tensors and of values; each value with its name and type; each tensor with
its name, shape, type and place. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError, one_line
from slmbench.models.ggml_types import GGML_TYPES
from slmbench.system.files import open_regular

MAGIC = b"GGUF"
_VERSIONS, _MOST_DIMENSIONS = (2, 3), 4
_MOST_TENSORS, _MOST_VALUES, _LONGEST_NAME, _LONGEST_TEXT = 1 << 16, 1 << 16, 1 << 10, 1 << 24
_MOST_ITEMS, _KEPT_ITEMS, _KEPT_TEXT = 1 << 24, 1 << 13, 4096
#: ``struct`` codes of the numbers; texts and lists are read otherwise.
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
#: ``NAME-00001-of-00003.gguf``: the only names by which llama.cpp finds the parts of a file.
SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file."""

    name: str
    #: As ggml writes it: the length of a row first.
    shape: tuple[int, ...]
    type: str
    size_bytes: int

    @property
    def weights(self) -> int:
        """Return the number of its elements."""
        return math.prod(self.shape)


@dataclass
class GgufHeader:
    """What a file, or all parts of one, says before its weights begin."""

    values: dict[str, Any]
    tensors: list[GgufTensor]
    #: Lengths of the lists, whose items are kept only where there are few.
    lengths: dict[str, int] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """Return llama.cpp's name of the architecture."""
        return str(self.values.get("general.architecture", ""))

    def number(self, key: str, default: int | None = None) -> int | None:
        """Return an integer of the architecture's; of a list with one for each layer the largest."""
        value = self.values.get(f"{self.architecture}.{key}")
        if isinstance(value, list):
            value = max((one for one in value if type(one) is int), default=None)
        return value if type(value) is int else default

    def by_type(self) -> dict[str, tuple[int, int]]:
        """Return (weights, bytes) of all tensors by their type."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.tensors:
            count, size = found.get(one.type, (0, 0))
            found[one.type] = count + one.weights, size + one.size_bytes
        return found


class _GgufReader:
    """Takes numbers and texts off the start of a mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
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

    def text(self, longest: int = _LONGEST_TEXT) -> str:
        """Return the next text; of a long one its beginning."""
        length = self.take("Q")
        if length > longest or self.place + length > len(self._data):
            raise ValueError(f"a text of {length} bytes in its header")
        raw = self._data[self.place : self.place + min(length, _KEPT_TEXT)]
        self.place += length
        return raw.decode("utf-8", "replace")

    def skip_texts(self, count: int) -> None:
        """Pass over so many texts."""
        data, place, size = self._data, self.place, len(self._data)
        length_of = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if place + 8 > size:
                raise ValueError("it ends within its header")
            place += 8 + length_of(data, place)[0]
        if place > size:
            raise ValueError("it ends within its header")
        self.place = place

    def value(self, kind: int) -> tuple[Any, int | None]:
        """Return the next value of that type, and its length if it is a list; of a long list no items."""
        if kind == _TEXT:
            return self.text(), None
        if kind in _CODES:
            return self.take(_CODES[kind]), None
        if kind != _LIST:
            raise ValueError(f"a value of type {kind}, which GGUF does not have")
        item, count = self.take("I"), self.take("Q")
        if count > _MOST_ITEMS:
            raise ValueError(f"a list of {count} items in its header")
        if item == _TEXT:
            if count > _KEPT_ITEMS:
                self.skip_texts(count)
                return [], count
            return [self.text() for _ in range(count)], count
        if item not in _CODES:
            raise ValueError(f"a list of items of type {item}, which GGUF does not have")
        size = struct.calcsize(_CODES[item]) * count
        if self.place + size > len(self._data):
            raise ValueError("it ends within its header")
        if count > _KEPT_ITEMS:
            self.place += size
            return [], count
        return [self.take(_CODES[item]) for _ in range(count)], count


def read_header(path: Path) -> GgufHeader:
    """Return what one file says; its tensors are whole within it.

    Raises:
        BadInputError: it cannot be read, is cut, is no GGUF file, or claims what cannot be.
    """
    try:
        return parse_header(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInputError(f"{path}: not a GGUF file that can be used: {one_line(str(reason))[:200]}") from error


def parse_header(path: Path) -> GgufHeader:
    """Return what one file says, as :func:`read_header`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut, is no GGUF file, or claims what cannot be.
    """
    with open_regular(path) as file:
        if path.stat().st_size < 24:
            raise ValueError("it ends within its header")
        # Mapped: of a file of many GB only the header's pages are read.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_GgufReader(data), len(data))


def _read(reader: _GgufReader, size: int) -> GgufHeader:
    if reader.take("4s") != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = reader.take("I")
    if version not in _VERSIONS:
        big = version & 0xFFFF == 0
        raise ValueError("it is big-endian" if big else f"it is of version {version}, not 2 or 3")
    tensors, values = reader.take("Q"), reader.take("Q")
    if tensors > _MOST_TENSORS or values > _MOST_VALUES:
        raise ValueError(f"it claims {tensors} tensors and {values} values")
    found: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for _ in range(values):
        name, kind = reader.text(_LONGEST_NAME), reader.take("I")
        if name in found:
            raise ValueError(f"'{name}' is there twice")
        found[name], length = reader.value(kind)
        if length is not None:
            lengths[name] = length
    return GgufHeader(found, _tensors(reader, tensors, size, found), lengths)


def _tensors(reader: _GgufReader, count: int, size: int, values: Mapping[str, Any]) -> list[GgufTensor]:
    """Return the tensors, each of which is whole in the file."""
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment % 8:
        raise ValueError(f"its alignment is {alignment!r:.40}")
    found: dict[str, GgufTensor] = {}
    end = 0
    for _ in range(count):
        name, dimensions = reader.text(_LONGEST_NAME), reader.take("I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"'{name}' has {dimensions} dimensions")
        shape = tuple(reader.take("Q") for _ in range(dimensions))
        kind, offset = reader.take("I"), reader.take("Q")
        if kind not in GGML_TYPES:
            raise ValueError(f"'{name}' is of ggml's type {kind}, which is not known")
        type_name, block, block_bytes = GGML_TYPES[kind]
        if name in found or not all(shape) or shape[0] % block or offset % alignment:
            raise ValueError(f"'{name}' is there twice, or its shape or place does not fit its type")
        size_bytes = math.prod(shape) // block * block_bytes
        end = max(end, offset + size_bytes)
        found[name] = GgufTensor(name, shape, type_name, size_bytes)
    start = -(-reader.place // alignment) * alignment
    if found and start + end > size:
        raise ValueError(f"its tensors end at byte {start + end}, it has {size}")
    return list(found.values())


def parts_of(path: Path) -> list[Path]:
    """Return all parts of a file, itself alone where it is whole; named by any of them.

    Raises:
        BadInputError: a part is missing.
    """
    match = SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    names = [f"{match['stem']}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]
    for name in names:
        if not (path.parent / name).is_file():
            raise BadInputError(f"{path.parent / name}: this part of {match['stem']} ({count} parts) is missing")
    return [path.parent / name for name in names]


def read_parts(parts: list[Path]) -> GgufHeader:
    """Return what all parts together say.

    Raises:
        BadInputError: as :func:`read_header`, or they are not parts of one file in this order.
    """
    headers = [read_header(path) for path in parts]
    first = headers[0]
    claimed = first.values.get("split.count", 0)
    if claimed not in (0, 1) and claimed != len(parts):
        raise BadInputError(
            f"{parts[0]}: its header says it is one of {claimed} parts; it is named as one of {len(parts)}"
        )
    names: set[str] = set()
    for number, (path, header) in enumerate(zip(parts, headers, strict=True)):
        if len(parts) > 1 and (header.values.get("split.no"), header.values.get("split.count")) != (number, len(parts)):
            raise BadInputError(f"{path}: its header does not say that it is part {number + 1} of {len(parts)}")
        here = {one.name for one in header.tensors}
        if names & here:
            raise BadInputError(f"{path}: has the tensor '{one_line(min(names & here))}' of another part as well")
        names |= here
    total = first.values.get("split.tensors.count", len(names))
    if total != len(names):
        raise BadInputError(f"{parts[0]}: {total} tensors are announced, the parts have {len(names)}")
    return GgufHeader(first.values, [one for header in headers for one in header.tensors], first.lengths)
