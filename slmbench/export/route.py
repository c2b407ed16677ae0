"""What an export route gives back, and how one is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint

#: Told one short line whenever the work enters a new stage.
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What a route wrote into its folder; the fields become the manifest's."""

    graphs: dict[Role, str]
    attention: str
    cross_kv_once: bool | None
    decode_weight_bytes: int


class Route(Protocol):
    """Writes the graphs of ``checkpoint`` as ``spec`` asks into the empty ``folder``."""

    def __call__(self, checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
        """Export.

        Raises:
            CannotRunError: a library is missing or fails; the text names the architecture and what would work.
        """
