"""How equal machines share cases: how much a machine takes at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

#: A block that was begun on this many machines in vain is not given to another one.
TRIES = 3


class Work:
    """The blocks that machines of one kind have still to measure."""

    def __init__(self, blocks: Iterable[Sequence[str]]) -> None:
        # Large blocks first: at the end the small ones fill the gaps.
        self._blocks = sorted((tuple(block) for block in blocks), key=len, reverse=True)
        self._waiting = set(self._blocks)
        self._tries: Counter[tuple[str, ...]] = Counter()

    def waiting(self) -> list[str]:
        """Return the cases that no machine has."""
        return [key for block in self._in_order() for key in block]

    def has_work(self) -> bool:
        """Tell whether there is anything to take."""
        return any(self._tries[block] < TRIES for block in self._waiting)

    def take(self, machines: int) -> tuple[str, ...]:
        """Take a chunk for one of so many machines: much at first, little at the end; empty where nothing is left.

        Guided self-scheduling: half of an equal share of what is left, in whole blocks. One machine takes everything.
        """
        free = [block for block in self._in_order() if self._tries[block] < TRIES]
        cases = sum(map(len, free))
        wanted = cases if machines <= 1 else math.ceil(cases / (2 * machines))
        taken: list[str] = []
        for block in free:
            if len(taken) >= wanted:
                break
            self._waiting.discard(block)
            taken += block
        return tuple(taken)

    def claim(self, keys: Collection[str]) -> bool:
        """Take exactly the blocks of these cases, if all of them wait; else nothing."""
        mine = self._of(keys)
        if not mine or any(block not in self._waiting for block in mine):
            return False
        for block in mine:
            self._waiting.discard(block)
        return True

    def give_back(self, keys: Collection[str], done: Collection[str], *, failed: bool = True) -> None:
        """Let every block of a chunk that is not done wait again, whole: its cases are judged together.

        ``failed`` counts: what was begun in vain :data:`TRIES` times waits for nobody any more.
        """
        for block in self._of(keys):
            if not set(block) <= set(done):
                self._waiting.add(block)
                self._tries[block] += failed

    def settle(self, done: Collection[str]) -> None:
        """Take out the blocks whose cases are all done."""
        for block in self._of(done):
            if set(block) <= set(done):
                self._waiting.discard(block)

    def unfinished(self, keys: Collection[str], done: Collection[str]) -> list[str]:
        """Return the cases of a chunk whose blocks are not done whole."""
        return [key for block in self._of(keys) if not set(block) <= set(done) for key in block]

    def _in_order(self) -> list[tuple[str, ...]]:
        """Return what waits, large blocks first: also what came back late, or it would be the last to end."""
        return [block for block in self._blocks if block in self._waiting]

    def _of(self, keys: Collection[str]) -> list[tuple[str, ...]]:
        """Return the blocks that have any of the cases."""
        wanted = set(keys)
        return [block for block in self._blocks if not wanted.isdisjoint(block)]
