"""Slow sweeps take turns: each commit runs a share of every one of them, and some commits together run it all.

Which share is in turn follows from the commit, so that a run can be repeated. ``SLMBENCH_ALL=1`` runs everything,
``SLMBENCH_TURN=0`` (1, 2, ...) a share of your choice.
"""

from __future__ import annotations

import os
import subprocess
import zlib
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

from slmbench.models import catalog

One = TypeVar("One")


@cache
def turn() -> int | None:
    """Return the number that says whose turn it is; None where everything runs, as in a copy without its history."""
    if os.environ.get("SLMBENCH_ALL", "0") not in ("", "0"):
        return None
    if chosen := os.environ.get("SLMBENCH_TURN"):
        return int(chosen)
    try:
        told = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(told.stdout.strip()[:8], 16)


def in_turn(sweep: Sequence[One], shares: int) -> list[One]:
    """Return what is in turn of a sweep that is cut into so many shares: every ``shares``-th."""
    number = turn()
    return list(sweep) if number is None else list(sweep[number % shares :: shares])


def is_in_turn(nodeid: str) -> bool:
    """Return whether a slow test is among the share of them, 3 of 11, that the whole suite runs with this commit.

    No sweep has 11 shares: each combination of a test and what it sweeps over comes in turn.
    """
    number = turn()
    return number is None or "SLMBENCH_ENVIRONMENT" in os.environ or (zlib.crc32(nodeid.encode()) + number) % 11 < 3


def tiny_models(always: Collection[str] = ()) -> list[str]:
    """Return the catalog's tiny models that are in turn, and those that always are.

    The same third is in turn in every file, so that one test finds what another has exported.
    """
    # The text part of a checkpoint that takes pictures is another one of the list.
    names = [name for name in catalog.names() if name.endswith("-tiny") and "-vision-" not in name]
    turned = in_turn(names, 3)
    return [name for name in names if name in always or name in turned]


def takes_turns(place: int, shares: int) -> pytest.MarkDecorator:
    """Return a mark for one of several tests that take turns, ``place`` of ``shares``.

    The longest are at 2 and 3 of 4: at 0 and 1 ``.ci/environments`` has the environments that take longest.
    """
    number = turn()
    return pytest.mark.skipif(
        number is not None and number % shares != place,
        reason="its turn comes with another commit (SLMBENCH_ALL=1 runs it)",
    )
