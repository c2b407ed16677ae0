"""The header of a CTranslate2 model.bin, read with bounds: its variables, and which names stand for others.

Little-endian: version, the specification's name and revision, then each variable with its name, shape, type and bytes,
then the aliases. (``ctranslate2.specs.model_spec``, ``_serialize``.)
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import BadInputError, one_line
from slmbench.system.files import open_regular

#: The version of the format that is read, and that CTranslate2 writes since 1.18.
VERSION = 6
#: CTranslate2's names of types in the order of their numbers, and the bits of each.
TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
BITS = {"float32": 32, "int8": 8, "int16": 16, "int32": 32, "float16": 16, "bfloat16": 16}
_MOST_VARIABLES, _MOST_DIMENSIONS = 1 << 16, 8
#: ``struct`` codes of the types of single numbers.
_CODES = {"float32": "f", "int8": "b", "int16": "h", "int32": "i"}


@dataclass(frozen=True)
class Variable:
    """One variable of a model."""

    name: str
    shape: tuple[int, ...]
    type: str
    size_bytes: int
    #: The value of a variable that is one number.
    number: float | None = None

    @property
    def weights(self) -> int:
        """Return how many weights it holds; scales of quantised ones are none."""
        return math.prod(self.shape) if self.shape and not self.name.endswith("_scale") else 0


@dataclass(frozen=True)
class Ctranslate2Header:
    """What a model.bin says before and between its weights."""

    specification: str
    revision: int
    variables: Mapping[str, Variable]
    #: A name to the variable that it stands for.
    aliases: Mapping[str, str]

    def get(self, name: str) -> Variable | None:
        """Return the variable of that name, or that it stands for."""
        return self.variables.get(self.aliases.get(name, name))

    def number(self, name: str) -> int | None:
        """Return a variable that is a whole number."""
        found = self.get(name)
        return None if found is None or found.number is None else int(found.number)

    def decode_bytes(self) -> int:
        """Return the bytes that one decode step reads: of embeddings and positions that are nothing else a row.

        K and V of cross-attention are computed with a prompt's first step and kept.
        """
        names = {
            name
            for name in (*self.variables, *self.aliases)
            if name.startswith("decoder/")
            and "/position_encodings/" not in name
            and not name.startswith("decoder/embeddings/")
            and "/attention/linear_1/" not in name
        }
        return sum(self.variables[one].size_bytes for one in {self.aliases.get(name, name) for name in names})


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self.place = data, 0

    def take(self, code: str) -> int:
        one = struct.Struct("<" + code)
        if self.place + one.size > len(self._data):
            raise ValueError("it ends in the middle")
        (value,) = one.unpack_from(self._data, self.place)
        self.place += one.size
        return int(value)

    def text(self) -> str:
        length = self.take("H")
        if not length or self.place + length > len(self._data):
            raise ValueError("it ends in the middle")
        raw = self._data[self.place : self.place + length]
        self.place += length
        if raw[-1] != 0 or b"\0" in raw[:-1]:
            raise ValueError("a name in it is no text")
        return raw[:-1].decode("utf-8")

    def skip(self, size: int) -> bytes:
        """Pass over so many bytes; return them where they are few."""
        if self.place + size > len(self._data):
            raise ValueError("its weights are cut off")
        kept = self._data[self.place : self.place + size] if size <= 8 else b""
        self.place += size
        return kept


def read_model(path: Path) -> Ctranslate2Header:
    """Return what a model.bin says.

    Raises:
        BadInputError: it cannot be read, is cut, is of another version, or claims what cannot be.
    """
    try:
        with open_regular(path) as file:
            if path.stat().st_size < 16:
                raise ValueError("it ends in the middle")
            # Mapped: of a file of many GB only the pages with names are read.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Cursor(data), len(data))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        text = one_line(str(reason))[:200]
        raise BadInputError(f"{path}: not a CTranslate2 model that can be used: {text}") from error


def _read(cursor: _Cursor, size: int) -> Ctranslate2Header:
    version = cursor.take("I")
    if version != VERSION:
        raise ValueError(f"it is of version {version}, not {VERSION}; convert it again with a present CTranslate2")
    specification, revision, count = cursor.text(), cursor.take("I"), cursor.take("I")
    if count > _MOST_VARIABLES:
        raise ValueError(f"it claims {count} variables")
    variables: dict[str, Variable] = {}
    for _ in range(count):
        one = _variable(cursor)
        if one.name in variables:
            raise ValueError(f"'{one.name}' is there twice")
        variables[one.name] = one
    aliases: dict[str, str] = {}
    count = cursor.take("I")
    if count > _MOST_VARIABLES:
        raise ValueError(f"it claims {count} aliases")
    for _ in range(count):
        alias, name = cursor.text(), cursor.text()
        if name not in variables or alias in variables:
            raise ValueError(f"'{alias}' stands for '{name}', which cannot be")
        aliases[alias] = name
    if cursor.place != size:
        raise ValueError(f"{size - cursor.place} bytes follow its end")
    return Ctranslate2Header(specification, revision, variables, aliases)


def _variable(cursor: _Cursor) -> Variable:
    name, rank = cursor.text(), cursor.take("B")
    if rank > _MOST_DIMENSIONS:
        raise ValueError(f"'{name}' has {rank} dimensions")
    shape = tuple(cursor.take("I") for _ in range(rank))
    number, size = cursor.take("B"), cursor.take("I")
    if number >= len(TYPES):
        raise ValueError(f"'{name}' is of type {number}, which this reader does not know")
    kind = TYPES[number]
    if size * 8 != math.prod(shape) * BITS[kind]:
        raise ValueError(f"'{name}' has {size} bytes, which its shape and type do not fit")
    raw = cursor.skip(size)
    value = struct.unpack("<" + _CODES[kind], raw)[0] if not shape and kind in _CODES else None
    return Variable(name, shape, kind, size, value)
