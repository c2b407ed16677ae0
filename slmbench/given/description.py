"""What the reader of each layout returns: an artifact's headers in slmbench's words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slmbench.errors import one_line
from slmbench.models.artifact import inside
from slmbench.models.geometry import Geometry
from slmbench.models.given_record import GivenLayout, GivenRole
from slmbench.models.vision_facts import VisionFacts
from slmbench.terms import ComputePrecision, Family, Precision

#: Texts that a producer wrote about itself, cut to this.
_LONGEST = 200


@dataclass
class Description:
    """An artifact by its headers; ``files`` are those that an engine opens, relative to its folder."""

    layout: GivenLayout
    family: Family
    architecture: str
    geometry: Geometry
    precision: Precision
    #: (weights, bytes) by type.
    weight_types: dict[str, tuple[int, int]]
    decode_weight_bytes: int
    graphs: dict[GivenRole, str]
    files: list[str]
    parameters: int
    compute: ComputePrecision | None = None
    producer: dict[str, str] = field(default_factory=dict)
    context_length: int | None = None
    tokenizer: str = ""
    attention: str = ""
    flags: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    eos_token_ids: tuple[int, ...] = ()
    unfed_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0
    decoder_start_token_id: int | None = None
    #: Of the part that reads pictures, where its graph is among these.
    vision: VisionFacts | None = None


def short(value: object) -> str:
    """Return what a file says about itself as one line that can be printed."""
    return one_line(str(value))[:_LONGEST]


def files_of(folder: Path) -> Iterator[str]:
    """Yield the names of a folder's regular files, sorted, hidden ones aside.

    Raises:
        BadInputError: a link leads out of the folder.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
    for name in names:
        inside(folder / name, folder)
        yield name
