"""Just enough of protobuf's wire format to read headers of files of many GB in place, with every length checked."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

#: A message's place in a file: from and to.
Span = tuple[int, int]
_VARINT, _EIGHT, _SPAN, _FOUR = 0, 1, 2, 5


def fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Yield a message's fields: number, and value; of texts, bytes and messages the place.

    Raises:
        ValueError: it is cut, or no message.
    """
    place, end = span
    while place < end:
        tag, place = _varint(data, place, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(data, place, end)
            yield number, value
        elif wire == _SPAN:
            length, place = _varint(data, place, end)
            if place + length > end:
                raise ValueError(f"a field of {length} bytes ends beyond its message")
            yield number, (place, place + length)
            place += length
        elif wire in (_EIGHT, _FOUR):
            size = 8 if wire == _EIGHT else 4
            if place + size > end:
                raise ValueError("it ends within a number")
            yield number, int.from_bytes(data[place : place + size], "little")
            place += size
        else:
            raise ValueError(f"a field of wire type {wire}")


def numbers(data: mmap.mmap, value: int | Span) -> list[int]:
    """Return the integers of a repeated field, packed or one of them, signed."""
    if isinstance(value, int):
        return [_signed(value)]
    place, end = value
    found = []
    while place < end:
        one, place = _varint(data, place, end)
        found.append(_signed(one))
    return found


def text(data: mmap.mmap, value: int | Span, longest: int = 4096) -> str:
    """Return a text field.

    Raises:
        ValueError: it is longer, or no text.
    """
    if isinstance(value, int) or value[1] - value[0] > longest:
        raise ValueError("a name that is too long, or none")
    return data[value[0] : value[1]].decode("utf-8", "replace")


def message(value: int | Span) -> Span:
    """Return the place of a message field.

    Raises:
        ValueError: it is a number.
    """
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return value


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("it ends within a number")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
