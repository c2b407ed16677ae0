"""Lists, ranges and times as people type them: on the command line, in suites, in Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from slmbench.case import MOST_SIDE
from slmbench.errors import nearest
from slmbench.terms import PAIRINGS

#: Values that one range may have; a suite of more cases is refused anyway.
MOST_VALUES = 100_000
#: As llama-bench takes them: 8, 64-256+64 (64, 128, 192, 256), 128-1024*2 (128, 256, 512, 1024), 1-4.
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?", re.ASCII)
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h)", re.ASCII)
_SIZE = re.compile(r"(\d{1,1000})x(\d{1,1000})", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def names(given: list[str]) -> list[str]:
    """Return names that are repeated, or have commas between them; each once, in order.

    A text that is a path which exists is one name, commas and all.

    Raises:
        ValueError: nothing stands between two commas.
    """
    found: list[str] = []
    for text in given:
        parts = [text] if "," in text and _exists(text) else [part.strip() for part in text.split(",")]
        if not all(parts):
            raise ValueError(f"'{text}': names with commas between them are expected")
        found += parts
    return list(dict.fromkeys(found))


def settings(given: list[str]) -> list[str]:
    """Return KEY=VALUE texts that are repeated, or have commas between them.

    A comma belongs to the value where what follows is not KEY=.
    """
    return [one for text in given for one in re.split(r",\s*(?=[A-Za-z_][\w.-]*!?=)", text)]


def counts(given: list[str]) -> list[int]:
    """Return whole numbers from 1 that are repeated, have commas between them, or are ranges; each once, in order.

    Raises:
        ValueError: something is neither.
    """
    return list(dict.fromkeys(value for text in given for part in text.split(",") for value in _range(part, text)))


def listed(given: object) -> object:
    """Return what a file or a program gives for names: a text with commas as its list, anything else as it is."""
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else given


def paired(given: object) -> object:
    """Return what is given for a pair as its parts: two names, and perhaps what the two have in common.

    Raises:
        ValueError: they are not two or three parts, one is empty, or the third is no pairing.
    """
    parts = listed(given)
    if not isinstance(parts, list | tuple) or not 2 <= len(parts) <= 3 or "" in parts:
        raise ValueError("two names with a comma between them are expected, and perhaps a pairing after them")
    if len(parts) == 3 and parts[2] not in PAIRINGS:
        hint = nearest(str(parts[2]), list(PAIRINGS))
        raise ValueError(f"'{parts[2]}' is no pairing; it is one of {', '.join(PAIRINGS)}.{hint}")
    return parts


def counted(given: object) -> object:
    """Return what a file or a program gives for numbers as a list, with the ranges that are texts written out.

    Raises:
        ValueError: a text is neither numbers nor a range.
    """
    items = given if isinstance(given, list | tuple) else [given]
    return [value for item in items for value in (counts([item]) if isinstance(item, str) else [item])]


def sized(given: object) -> object:
    """Return sizes of pictures (``512x512``, width first; several with commas) as pairs; pairs stay as they are.

    Raises:
        ValueError: a text is no size.
    """
    found: list[tuple[object, ...]] = []
    for item in given if isinstance(given, list | tuple) else [given]:
        for part in [item] if isinstance(item, list | tuple) else str(item).split(","):
            match = _SIZE.fullmatch(part.strip()) if isinstance(part, str) else None
            if isinstance(part, str) and match is None:
                raise ValueError(
                    f"'{part}' is no size of a picture; WIDTHxHEIGHT in pixels is expected, such as 512x512"
                )
            sides = [int(match[1]), int(match[2])] if match else []
            if sides and not 1 <= min(sides) <= max(sides) <= MOST_SIDE:
                which = "large" if max(sides) > MOST_SIDE else "small"
                raise ValueError(f"'{part}' is too {which}: a drawn picture has 1 to {MOST_SIDE:,} pixels a side")
            found.append(tuple(sides or part))
    return list(dict.fromkeys(found))


def seconds(given: object) -> float:
    """Return a time in seconds: a number, or numbers with their units (``20s``, ``5m``, ``1h30m``, ``500ms``).

    Raises:
        ValueError: neither, or not positive.
    """
    text = str(given).strip()
    parts = _TIME.findall(text)
    if not isinstance(given, bool) and parts and "".join(map("".join, parts)) == text:
        found = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        try:
            found = float("" if isinstance(given, bool) else text)
        except ValueError:
            found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"'{given}' is not a time greater than 0; write seconds, or 20s, 5m, 1h30m")
    return found


def _range(part: str, whole: str) -> Iterator[int]:
    match = _RANGE.fullmatch(part.strip())
    first, last, sign, step = match.groups() if match and len(part) < 100 else (None, None, None, None)
    if first is None or int(first) < 1 or (step is not None and int(step) < (2 if sign == "*" else 1)):
        raise ValueError(
            f"'{whole}': whole numbers of at least 1 are expected, with commas between them, or ranges: "
            "64-256+64, 128-1024*2"
        )
    value, end = int(first), int(last or first)
    if value > end:
        raise ValueError(f"'{whole}': {value} is larger than {end}")
    for _ in range(MOST_VALUES):
        yield value
        value = value * int(step or 1) if sign == "*" else value + int(step or 1)
        if value > end:
            return
    raise ValueError(f"'{whole}': more than {MOST_VALUES:,} values")


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
