"""Which cases are live together: as many as the memory holds, by what their workers really took."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import psutil

from slmbench.records.schema import MemoryRecord
from slmbench.system.container import container_limits

#: Workers that live at once, whatever the memory: each holds files and a thread of the host, and the usual limits of
#: open files are 256 (macOS) and 1024 (Linux).
MOST_LIVE = 64


def available_bytes() -> int:
    """Return the memory that workers may fill now: what is free, or the container's limit where that is less."""
    available = psutil.virtual_memory().available
    limit = container_limits().memory_bytes
    return available if limit is None else min(available, limit)


def footprint_bytes(memory: MemoryRecord) -> int:
    """Return what a live worker takes from the others: its unique set where that is known."""
    return memory.peak_rss_bytes if memory.peak_uss_bytes is None else memory.peak_uss_bytes


def make_blocks(
    memory: Sequence[MemoryRecord], room_bytes: float, together: Iterable[Collection[str]] = (), most: int = MOST_LIVE
) -> list[list[str]]:
    """Split the cases into blocks of at most ``most`` whose live workers fit ``room_bytes`` together.

    Cases that are judged together (``together`` holds groups of keys; others stand alone) are in one block where one
    can hold them. Next to the footprints of a block there must be room for one worker that is being opened, which may
    take more than it keeps. A case that does not fit alone gets a block of its own: it was opened once, so it can be
    again.
    """
    blocks: list[list[MemoryRecord]] = []
    for group in _grouped(memory, together):
        if blocks and _fits([*blocks[-1], *group], room_bytes, most):
            blocks[-1] += group
        elif _fits(group, room_bytes, most):
            blocks.append(group)
        else:
            blocks.append([])
            for record in group:
                if blocks[-1] and not _fits([*blocks[-1], record], room_bytes, most):
                    blocks.append([])
                blocks[-1].append(record)
    return [[record.case for record in block] for block in blocks]


def _grouped(memory: Sequence[MemoryRecord], together: Iterable[Collection[str]]) -> list[list[MemoryRecord]]:
    """Return the records in groups; each stands where the first of its cases does."""
    group_of = {key: number for number, keys in enumerate(together) for key in keys}
    groups: dict[int | str, list[MemoryRecord]] = {}
    for record in memory:
        groups.setdefault(group_of.get(record.case, record.case), []).append(record)
    return list(groups.values())


def _fits(block: Sequence[MemoryRecord], room_bytes: float, most: int) -> bool:
    footprints = [footprint_bytes(record) for record in block]
    opening = max(record.peak_rss_bytes - footprint for record, footprint in zip(block, footprints, strict=True))
    return len(block) <= most and sum(footprints) + opening <= room_bytes
