"""The network that slmbench's own exporters read: the catalog's without torch where it is known, or transformers'."""

from __future__ import annotations

from typing import Any

from slmbench.models import catalog_network
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.shipped_golden import needs_torch


def own_network(checkpoint: Checkpoint) -> Any:
    """Return the network of a checkpoint.

    Raises:
        CannotRunError: it needs torch, and torch or transformers is not installed.
        BadInputError: the folder's config or weights are not what transformers takes.
    """
    if not needs_torch(checkpoint):
        return catalog_network.network(checkpoint.name)
    from slmbench.export.torch_model import load_model

    return load_model(checkpoint)
