"""The samples of one case as arrays, and how they grow while a run is read."""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SampleColumns:
    """The samples of one case, in the order they were taken; arrays ``[samples]`` but for the last two."""

    load: Ints
    round: Ints
    #: Time of the first and of the last token after the call, ns.
    first_ns: Ints
    last_ns: Ints
    tokens: Ints
    #: Tokens of the prompt that pictures became.
    image_tokens: Ints
    #: Answers side by side: prompts of a batch times samples of each.
    rows: Ints
    #: Gaps between tokens of one turn, and their sum in ns.
    gaps: Ints
    gaps_ns: Ints
    #: Turns of each sample.
    turns: Ints
    #: Time to the first token of the turns after the first, on average, and of the last, ns; NaN for one turn.
    turn_first_ns: Floats
    last_turn_first_ns: Floats
    #: Foreign load in cores and energy in J; NaN where not read.
    foreign_load: Floats
    energy_j: Floats
    #: Labelled "foreign_load".
    disturbed: NDArray[np.bool_]
    #: The beginning of a longer generation, not generated for this case.
    derived: NDArray[np.bool_]
    #: Parts of the first token's time in ns; NaN where a sample lacks one.
    phases_ns: dict[str, Floats]
    #: All stamps of all samples behind one another; empty when read without them.
    token_ns: Ints
    #: Tokens of every turn of every sample, in the same order.
    turn_tokens: Ints

    def __len__(self) -> int:
        return int(self.load.size)

    def tpot_ns(self) -> Floats:
        """Return the mean gap between tokens of one turn of each sample in ns; NaN without a gap."""
        out: Floats = np.full(len(self), np.nan)
        np.divide(self.gaps_ns, self.gaps, out=out, where=self.gaps > 0)
        return out

    def counted(self) -> NDArray[np.bool_]:
        """Return which samples count: of a sample and its retake in one round, the one with less foreign activity.

        Where that is equal or unknown the later one counts. The other stays on disk.
        """
        return self._counted

    @cached_property
    def _counted(self) -> NDArray[np.bool_]:
        mask = np.zeros(len(self), dtype=np.bool_)
        # Stable order by load, round and falling foreign activity: the last of each place is the one that counts.
        order = np.lexsort((-np.nan_to_num(self.foreign_load), self.round, self.load))
        places = np.column_stack((self.load[order], self.round[order]))
        last = np.ones(len(self), dtype=np.bool_)
        last[:-1] = np.any(places[1:] != places[:-1], axis=1)
        mask[order[last]] = True
        return mask

    def generations(self) -> list[Ints]:
        """Return the stamps of every turn of the samples that count; nothing when read without them."""
        if self.token_ns.size == 0:
            return []
        each = np.split(self.token_ns, np.cumsum(self.turn_tokens)[:-1])
        counts = np.repeat(self.counted(), self.turns)
        return [stamps for stamps, counted in zip(each, counts.tolist(), strict=True) if counted]


_INTEGERS = ("load", "round", "first_ns", "last_ns", "tokens", "image_tokens", "rows", "gaps", "gaps_ns", "turns")
_FLOATS = ("turn_first_ns", "last_turn_first_ns", "foreign_load", "energy_j")


class CaseArrays:
    """Growing columns of one case."""

    def __init__(self) -> None:
        """Begin without a sample."""
        self.ints = {name: array("q") for name in _INTEGERS}
        self.floats = {name: array("d") for name in _FLOATS}
        self.disturbed = bytearray()
        self.derived = bytearray()
        self.phases: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self.token_ns = array("q")
        self.turn_tokens = array("q")

    def finish(self) -> SampleColumns:
        """Return the columns."""
        columns: dict[str, Any] = {name: np.frombuffer(values, dtype=np.int64) for name, values in self.ints.items()}
        columns |= {name: np.frombuffer(values, dtype=np.float64) for name, values in self.floats.items()}
        count = len(self.disturbed)
        return SampleColumns(
            **columns,
            disturbed=np.frombuffer(bytes(self.disturbed), dtype=np.bool_),
            derived=np.frombuffer(bytes(self.derived), dtype=np.bool_),
            phases_ns={name: _padded(values, count) for name, values in self.phases.items()},
            token_ns=np.array(self.token_ns, dtype=np.int64),
            turn_tokens=np.array(self.turn_tokens, dtype=np.int64),
        )


def _padded(values: array[float], count: int) -> Floats:
    padded = np.full(count, np.nan)
    padded[: len(values)] = values
    return padded
