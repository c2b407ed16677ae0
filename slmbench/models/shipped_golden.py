"""Golden records of catalog entries that come with slmbench: made by torch on another machine, so that none is needed.

``python docs/golden_records.py`` makes them; ``tests/models/test_shipped_golden.py`` makes some of them again.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files

from slmbench.models import catalog, catalog_network
from slmbench.models.artifact import GoldenRecord
from slmbench.models.catalog_entry import CatalogEntry
from slmbench.models.checkpoint import Checkpoint

FILE = "golden_records.json"


@functools.cache
def _stored() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(files("slmbench.models").joinpath(FILE).read_text("utf-8"))
    return found


def shipped_record(checkpoint: Checkpoint) -> GoldenRecord | None:
    """Return the record of a catalog checkpoint; None where none was made of these weights."""
    entry = catalog.find(checkpoint.name) if checkpoint.source == "catalog" else None
    # A reference for an artifact that the user brings suppresses other tokens, and has another digest.
    if entry is None or not _has_record(entry) or checkpoint.digest != entry.digest():
        return None
    return GoldenRecord.model_validate(_stored()[entry.name]["record"])


def _has_record(entry: CatalogEntry) -> bool:
    stored = _stored().get(entry.name)
    return stored is not None and stored["digest"] == entry.digest()


def needs_torch(checkpoint: Checkpoint) -> bool:
    """Return whether slmbench's own exporters need torch for a checkpoint: for its network or for its golden record."""
    is_catalog = checkpoint.source == "catalog" and catalog_network.is_known(checkpoint.name)
    return not is_catalog or shipped_record(checkpoint) is None


def entry_needs_torch(entry: CatalogEntry) -> bool:
    """Return the same of a catalog entry."""
    return not (catalog_network.is_known(entry.name) and _has_record(entry))
