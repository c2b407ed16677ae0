"""Which cases are live together: as many as the memory holds, by what their workers really took."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from slmbench.machine.cgroup import container_limits
from slmbench.records import MemoryRecord


def available_bytes() -> int:
    """Return the memory that workers may fill now: what is free, or the container's limit where that is less."""
    available = psutil.virtual_memory().available
    limit = container_limits().memory_bytes
    return available if limit is None else min(available, limit)


def footprint_bytes(memory: MemoryRecord) -> int:
    """Return what a live worker takes from the others: its unique set where that is known."""
    return memory.peak_rss_bytes if memory.peak_uss_bytes is None else memory.peak_uss_bytes


def make_blocks(memory: Sequence[MemoryRecord], room_bytes: float) -> list[list[str]]:
    """Split the cases, in order, into blocks whose live workers fit ``room_bytes`` together.

    Beside the footprints of a block there must be room for one worker that is being opened, which may take more
    than it keeps. A case that does not fit alone gets a block of its own: it was opened once, so it can be again.
    """
    blocks: list[list[str]] = []
    filled, opening = 0, 0
    for record in memory:
        footprint = footprint_bytes(record)
        extra = max(opening, record.peak_rss_bytes - footprint)
        if blocks and filled + footprint + extra <= room_bytes:
            blocks[-1].append(record.case)
            filled, opening = filled + footprint, extra
        else:
            blocks.append([record.case])
            filled, opening = footprint, record.peak_rss_bytes - footprint
    return blocks
