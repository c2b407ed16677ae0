"""Notes that say a reason once, with the names of all that it holds for."""

from __future__ import annotations

from collections.abc import Iterable

#: Names in one note; how many more there are follows.
NAMED = 3


def by_reason(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names behind each reason, both in the order they come in, from (name, reason)."""
    groups: dict[str, list[str]] = {}
    for name, reason in found:
        groups.setdefault(reason, []).append(name)
    return groups


def named(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names if more <= 1 else [*names[:NAMED], f"{more:,} more"])


def said_once(what: str, found: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line a reason, the names before it, from (name, reason with the sign that it begins with)."""
    return [f"{what}: {named(names)}{why}" for why, names in by_reason(found).items()]
