"""Made-up figures of workloads that one load serves, for the simulation of verdicts."""

from __future__ import annotations

import numpy as np

from slmbench.analysis.metrics import Evidence

#: What the workloads of one load have for themselves, besides the load's effect.
OWN = 0.005


def in_shared_loads(workloads: int, loads: int, between: float, name: str, rng: np.random.Generator) -> list[Evidence]:
    """Draw what the cases of one configuration measured in the same loads; equal loads are neighbours in time.

    Loads differ by ``between`` (standard deviation on the log scale).
    """
    logs = rng.normal(0, between, loads) + rng.normal(0, OWN, (workloads, loads))
    ones, numbers = np.ones(loads, dtype=np.int64), np.arange(loads)
    rounds = [tuple((k, np.array([k]), np.exp(one[k : k + 1])) for k in range(loads)) for one in logs]
    return [
        Evidence(one, 0 * one, ones, each, loads=numbers, shared_loads=name)
        for one, each in zip(logs, rounds, strict=True)
    ]
