"""How long a run may measure, and what still fits into that time. Exports are not counted."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from slmbench.running.case_state import CaseState

#: Warm-ups of a load's lane, where they are guessed.
WARM_UPS = 2


@dataclass
class Budget:
    """The seconds of a run: of proofs, loads, warm-ups and samples, from the first opening on."""

    #: None: as long as it takes.
    seconds: float | None
    #: Somebody named the seconds: they are kept, also where a case then has no interval, or is not measured at all.
    #: Otherwise every case gets the loads without which it has no interval, however long they take.
    strict: bool
    began: float = field(default_factory=time.monotonic)

    @property
    def spent_s(self) -> float:
        """Return the seconds since measuring began."""
        return time.monotonic() - self.began

    @property
    def left_s(self) -> float:
        """Return the seconds left, infinite without a budget."""
        return math.inf if self.seconds is None else max(0.0, self.seconds - self.spent_s)

    def deadline(self, share: float) -> float | None:
        """Return when a part of the run must end that may take that share of what is left; None: never."""
        return None if self.seconds is None else time.monotonic() + share * self.left_s

    def admits(self, states: Iterable[CaseState], more: int) -> bool:
        """Return whether so many more cases can be proven, and they and those proven before be sampled once."""
        known = [state for state in states if state.survey_s]
        if not self.strict or not known:
            return True
        waiting = sum(cost_s(state) for state in states if state.memory and not state.failure and not state.samples)
        mean = sum(state.survey_s + cost_s(state) for state in known) / len(known)
        return waiting + more * mean <= self.left_s

    def affordable(self, groups: Iterable[Sequence[CaseState]], deadline: float | None, *, one: bool) -> set[str]:
        """Return the keys of those groups that can be loaded and sampled once more before the deadline.

        The groups with the fewest loads come first. With ``one`` the first is taken in any case.
        """
        chosen: set[str] = set()
        ends = time.monotonic()
        for group in sorted(groups, key=lambda group: min(state.sampled_loads for state in group)):
            cost = sum(map(cost_s, group))
            if not self.strict or deadline is None or ends + cost <= deadline or (one and not chosen):
                chosen.update(state.key for state in group)
                ends += cost
        return chosen


def cost_s(state: CaseState) -> float:
    """Return about how long it takes to load a case once more and to take one sample, in s."""
    return state.opening_s + 2 * state.generation_s
