"""How equal machines share cases: how much a machine takes at a time, and of what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction

#: A block that failed on this many machines is not given to another one.
TRIES = 3
Block = tuple[str, ...]


class Work:
    """The blocks that machines of one kind still have to measure, and the machines that take them.

    Equal hardware need not have the same engines: a machine takes the blocks of which it can run every case.
    """

    def __init__(self, blocks: Iterable[Sequence[str]]) -> None:
        # Large blocks first: at the end the small ones fill the gaps.
        self._blocks = sorted((tuple(block) for block in blocks), key=len, reverse=True)
        self._waiting = set(self._blocks)
        self._tries: Counter[Block] = Counter()
        #: What each working machine can take, and how many machines can take each block.
        self._able: dict[str, set[Block]] = {}
        self._takers: Counter[Block] = Counter()

    def enter(self, machine: str, keys: Collection[str]) -> None:
        """Let a machine take work: it can run these cases."""
        self.leave(machine)
        cases = set(keys)
        self._able[machine] = {block for block in self._blocks if cases.issuperset(block)}
        self._takers.update(self._able[machine])

    def leave(self, machine: str) -> None:
        """Give a machine no more work."""
        self._takers.subtract(self._able.pop(machine, ()))

    def cannot(self, machine: str, keys: Collection[str]) -> None:
        """Never give a machine a block with any of these cases."""
        lost = self._able[machine].intersection(self._of(keys))
        self._able[machine] -= lost
        self._takers.subtract(lost)

    def waiting(self) -> list[str]:
        """Return the cases that no machine has."""
        return [key for block in self._in_order() for key in block]

    def has_work(self, machine: str) -> bool:
        """Return whether there is work for a machine."""
        return any(map(self._free, self._waiting & self._able[machine]))

    def has_work_for_any(self) -> bool:
        """Return whether there is work for any machine: what it does not finish may come back."""
        return any(self._takers[block] and self._free(block) for block in self._waiting)

    def take(self, machine: str) -> Block:
        """Take blocks for a machine: many at first, few at the end; empty if nothing is left for it.

        Guided self-scheduling: half of an equal share of what is left, in whole blocks, first those that the fewest
        machines can run. What only this machine can run it takes all at once.
        """
        able = self._able[machine]
        free = [block for block in self._in_order() if block in able and self._free(block)]
        free.sort(key=lambda block: self._takers[block])
        wanted = math.ceil(sum(Fraction(len(block), _shares(self._takers[block])) for block in free))
        taken: list[str] = []
        for block in free:
            if len(taken) >= wanted:
                break
            self._waiting.discard(block)
            taken += block
        return tuple(taken)

    def claim(self, keys: Collection[str]) -> bool:
        """Take exactly the blocks of these cases if all of them are free; else nothing."""
        mine = self._of(keys)
        if not mine or any(block not in self._waiting for block in mine):
            return False
        self._waiting.difference_update(mine)
        return True

    def give_back(self, keys: Collection[str], done: Collection[str], *, failed: bool = True) -> None:
        """Return every block that is not done completely to the queue: its cases are judged together.

        ``failed`` counts: a block that failed :data:`TRIES` times is not given out again.
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
        """Return the cases whose blocks are not done completely."""
        return [key for block in self._of(keys) if not set(block) <= set(done) for key in block]

    def _free(self, block: Block) -> bool:
        return self._tries[block] < TRIES

    def _in_order(self) -> list[Block]:
        """Return what waits, large blocks first, also those that came back late: they would end last."""
        return [block for block in self._blocks if block in self._waiting]

    def _of(self, keys: Collection[str]) -> list[Block]:
        """Return the blocks that have any of the cases."""
        wanted = set(keys)
        return [block for block in self._blocks if not wanted.isdisjoint(block)]


def _shares(machines: int) -> int:
    return 1 if machines <= 1 else 2 * machines
