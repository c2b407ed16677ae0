"""Which cases share a figure, so that it is judged once: what a process has once, and what a generation has once.

A load serves all workloads of a configuration: its load time is one figure, however many cases show it. And the first
token of a generation of 64 tokens is the first token of the 16 that are its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

from slmbench.analysis.metrics import METRICS, Side, SideCase


def groups_of_one_figure(metric: str, keys: Sequence[str], sides: Sequence[Side]) -> list[list[str]]:
    """Return the cases in groups that have one figure of that metric, on one of the sides at least.

    The first of a group is judged for all of it: a case that was measured rather than derived, that with most loads.
    Groups and their other cases are in the order of ``keys``.
    """
    groups = {key: [key] for key in keys}
    for side in sides:
        seen: dict[str, str] = {}
        for key in keys:
            found = side.cases.get(key)
            if found is None:
                continue
            first = seen.setdefault(figure_of(metric, key, found), key)
            if groups[first] is not groups[key]:
                merged = groups[first] + groups[key]
                groups |= dict.fromkeys(merged, merged)
    places = {key: place for place, key in enumerate(keys)}
    chosen = {id(group): sorted(group, key=places.__getitem__) for group in groups.values()}
    ordered = sorted(chosen.values(), key=lambda group: places[group[0]])
    return [_owner_first(metric, group, sides) for group in ordered]


def _owner_first(metric: str, group: Sequence[str], sides: Sequence[Side]) -> list[str]:
    owner = max(group, key=lambda key: _worth(metric, key, sides))
    return [owner, *(key for key in group if key != owner)]


def figure_of(metric: str, key: str, found: SideCase) -> str:
    """Return the name of a figure: equal for cases of one side that share it; ``key`` is the case's own."""
    belongs_to = METRICS[metric].belongs_to
    if belongs_to == "generation":
        return found.derived_from or key
    return (found.configuration or key) if belongs_to == "configuration" else key


def _worth(metric: str, key: str, sides: Sequence[Side]) -> tuple[int, int, int]:
    found = [side.cases[key] for side in sides if key in side.cases]
    loads = [one.evidence[metric].logs.size if metric in one.evidence else 0 for one in found]
    return sum(count > 0 for count in loads), sum(one.derived_from is None for one in found), min(loads, default=0)
