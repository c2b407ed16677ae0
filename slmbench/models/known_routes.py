"""Which architectures each backend and exporter takes, as docs/architectures_table.py found it."""

from __future__ import annotations

import json
from importlib.resources import files

#: What a cell says where every golden token came out; any other text is the reason.
AGREE = "tokens agree"


def rows() -> list[dict[str, str]]:
    """Return the table: name, family, and a cell for each backend and exporter."""
    found: list[dict[str, str]] = json.loads(
        files("slmbench.models").joinpath("architectures.json").read_text(encoding="utf-8")
    )
    return found
