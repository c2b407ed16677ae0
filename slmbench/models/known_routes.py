"""Which architectures each backend and exporter takes, as docs/architectures_table.py found it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib.resources import files

from slmbench.terms import StrictModel

#: What a cell says where every golden token came out; any other text is the reason.
AGREE = "tokens agree"


class KnownArchitecture(StrictModel):
    """One row: a small checkpoint, and a cell for each backend and exporter ("openvino optimum")."""

    name: str
    #: transformers' model type of the part that is measured.
    architecture: str
    family: str
    cells: dict[str, str]
    #: Columns whose exporter took it, and then failed or got tokens wrong.
    failed: tuple[str, ...] = ()


@functools.cache
def rows() -> Sequence[KnownArchitecture]:
    """Return the table, decoder-only architectures first."""
    found = json.loads(files("slmbench.models").joinpath("architectures.json").read_text(encoding="utf-8"))
    return [KnownArchitecture.model_validate(one) for one in found]


def agreed(architecture: str, column: str) -> bool:
    """Return whether tokens agreed in that column for a checkpoint of the architecture."""
    return any(one.cells.get(column) == AGREE for one in rows() if one.architecture == architecture)


def known_failure(architecture: str, column: str) -> str | None:
    """Return what went wrong with every checkpoint of the architecture that the column's exporter took, or None."""
    wrong = [one.cells[column] for one in rows() if one.architecture == architecture and column in one.failed]
    return wrong[0] if wrong and not agreed(architecture, column) else None
