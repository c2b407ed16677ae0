"""Where the names of points stand in a chart, so that none covers another or a point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Pixels of the narrowest plot that names are placed for, its height, and the room around its points.
WIDTH, HEIGHT, PADDING = 620, 380, 40
#: Pixels of a letter and of a line at the size that names are written in, and of half a point.
_LETTER, _LINE, _POINT = 7.0, 14.0, 7.0
#: Pixels from a point to its name: nearest first.
_ASIDE, _UP_AND_DOWN = 9, (-11, 16, -26, 31)


@dataclass(frozen=True)
class Place:
    """A name's alignment ("left" or "right" of its text is at the point) and pixels from the point."""

    align: str
    dx: int
    dy: int


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return not (
            self.right <= other.left or other.right <= self.left or self.bottom <= other.top or other.bottom <= self.top
        )

    @property
    def inside(self) -> bool:
        return self.left >= 0 and self.right <= WIDTH and self.top >= 0 and self.bottom <= HEIGHT


def place_names(names: Sequence[str], shares: Sequence[tuple[float, float]]) -> list[Place | None]:
    """Return the place of each name, None where there is no room; those that come first have the first choice.

    ``shares`` hold for each name how far right and how far down its point is, as shares of the plot between its
    paddings.
    """
    points = [(PADDING + x * (WIDTH - 2 * PADDING), PADDING + y * (HEIGHT - 2 * PADDING)) for x, y in shares]
    taken = [_Box(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    found: list[Place | None] = []
    for name, (x, y) in zip(names, points, strict=True):
        for place in _choices(to_the_right=x <= WIDTH / 2):
            box = _box(name, x, y, place)
            if box.inside and not any(box.meets(other) for other in taken):
                taken.append(box)
                found.append(place)
                break
        else:
            found.append(None)
    return found


def share(value: float, values: Sequence[float], *, log: bool) -> float:
    """Return where a value is between the least and the largest of all, from 0 to 1."""
    low, high, here = (math.log(v) if log else v for v in (min(values), max(values), value))
    return 0.5 if high == low else (here - low) / (high - low)


def _choices(*, to_the_right: bool) -> Iterator[Place]:
    for dy in _UP_AND_DOWN:
        for right in (to_the_right, not to_the_right):
            yield Place("left", _ASIDE, dy) if right else Place("right", -_ASIDE, dy)


def _box(name: str, x: float, y: float, place: Place) -> _Box:
    width, start = len(name) * _LETTER, x + place.dx
    left = start if place.align == "left" else start - width
    # The text stands on its base line.
    return _Box(left, y + place.dy - 0.75 * _LINE, left + width, y + place.dy + 0.25 * _LINE)
