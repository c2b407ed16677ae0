"""Which cases are judged together, and so must be measured together: on one machine, side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from slmbench.case import Case
from slmbench.terms import PairNames


def judged_together(cells: Iterable[tuple[Case, str]], pairs: Collection[PairNames]) -> list[list[str]]:
    """Return the keys of cases, each given with its engine, in groups of which verdicts are made.

    Cases belong together where a verdict is made of them: a checkpoint's paths, arms and its loop without a K/V cache,
    and the checkpoints of a pair, on one engine and device with the same precisions, threads and workload.
    """
    partners: dict[str, set[str]] = defaultdict(set)
    for first, second, *_ in pairs:
        partners[first].add(second)
        partners[second].add(first)
    tasks: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case, engine in cells:
        work = case.workload.model_copy(update={"cache": "on"}).label()
        precisions = (case.weight_precision, case.compute_precision)
        task = (engine, case.device, *precisions, work, str(case.threads), str(case.simulate))
        tasks[task][case.checkpoint].append(case.key)
    groups = []
    for by_checkpoint in tasks.values():
        left = dict.fromkeys(by_checkpoint)
        while left:
            together = _reached(next(iter(left)), partners, left)
            groups.append([key for name in together for key in by_checkpoint[name]])
            for name in together:
                del left[name]
    return groups


def _reached(start: str, partners: dict[str, set[str]], among: Collection[str]) -> list[str]:
    """Return the checkpoints that pairs connect with ``start``, itself included, in the order of ``among``."""
    found, ahead = {start}, [start]
    while ahead:
        more = [name for name in partners[ahead.pop()] if name in among and name not in found]
        found.update(more)
        ahead += more
    return [name for name in among if name in found]
