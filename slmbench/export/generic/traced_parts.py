"""The parts of a network that are traced: its text alone, or its vision part and a text part that takes features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slmbench.export.generic.attention import Engine
from slmbench.export.generic.wrapper import KvSizes, ToTrace
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.picture_places import embedding_before_pictures, features_in_place, spread_positions
from slmbench.models.vision_facts import VisionFacts

#: The vision graph's output, and the input of the graph that reads prompts.
FEATURES = "image_features"
#: An input of text graphs whose image tokens have a row and a column: positions [3, R] of the prompt's first R tokens.
POSITIONS = "image_positions"


class _AfterPictures(torch.nn.Module):
    """A module whose last input is features [rows, width], which stand where its first, ids, has the image token.

    Where pictures keep their shape, the input before that are the positions of the prompt.
    """

    def __init__(self, inner: Any, network: Any, facts: VisionFacts) -> None:
        super().__init__()
        self.inner, self.network, self.facts = inner, network, facts

    def forward(self, *given: Tensor) -> Any:
        """Run the module."""
        with features_in_place(self.network, self.facts, given[-1]):
            if not self.facts.merge_size:
                return self.inner(*given[:-1])
            hook = spread_positions(self.network, lambda: given[-2])
            try:
                return self.inner(*given[:-2])
            finally:
                hook.remove()


@dataclass(frozen=True)
class TracedParts:
    """A checkpoint's network in its parts."""

    text: Any
    #: The network that reads pictures (see :mod:`slmbench.models.vision_network`); None for text alone.
    pictures: Any = None
    facts: VisionFacts | None = None

    def roles(self, sizes: KvSizes) -> tuple[Role, ...]:
        """Return the graphs, in the order in which they are made."""
        text: tuple[Role, ...] = ("encoder", "decoder") if sizes.cross else ("model",)
        return ("vision", *text) if self.pictures is not None else text

    def install(self, engine: Engine) -> None:
        """Give all parts the engine's attention."""
        engine.install(self.text)
        if self.pictures is not None:
            engine.install(self.pictures.vision)

    def with_features(self, graph: ToTrace, role: Role) -> ToTrace:
        """Return a text graph, that of prompts with features as its last input where pictures go in."""
        if self.facts is None or role == "decoder":
            return graph
        spreads = bool(self.facts.merge_size)
        positions = [torch.arange(4).expand(3, -1).clone()] if spreads else []
        return graph._replace(
            module=_AfterPictures(graph.module, self.text, self.facts),
            example=(*graph.example, *positions, torch.zeros(3, self.width)),
            inputs=[*graph.inputs, *([POSITIONS] if spreads else []), FEATURES],
        )

    def vision_graph(self) -> ToTrace:
        """Return what is traced of the vision part: of two pictures, so that no axis is 1 by chance."""
        pictures = self.pictures
        return ToTrace(pictures.vision, pictures.example(2), list(pictures.inputs), [FEATURES])

    def sizes(self) -> dict[str, tuple[int | None, ...]]:
        """Return by name what never varies of the ports of pictures and features; None counts pictures or rows."""
        if self.facts is None:
            return {}
        one, two = self.pictures.example(1), self.pictures.example(2)
        found: dict[str, tuple[int | None, ...]] = {
            name: tuple(size if size == other else None for size, other in zip(a.shape, b.shape, strict=True))
            for name, a, b in zip(self.pictures.inputs, one, two, strict=True)
        }
        return {**found, FEATURES: (None, self.width), POSITIONS: (3, None)}

    @property
    def width(self) -> int:
        """Return the width of features: that of the text's embeddings, and of what layers behind it add."""
        embedded = embedding_before_pictures(self.text)(torch.zeros(1, 1, dtype=torch.long))
        return int(embedded.shape[-1]) * (1 + (self.facts.added_layers if self.facts else 0))


def load_parts(checkpoint: Checkpoint, spec: ArtifactSpec) -> TracedParts:
    """Return the network, or its parts where pictures go in.

    Raises:
        CannotRunError: torch or transformers is not installed, or pictures do not go in as features.
        BadInputError: the folder's config or weights are not what transformers takes.
    """
    if not spec.pictures:
        from slmbench.export.torch_model import load_model

        return TracedParts(load_model(checkpoint))
    from slmbench.export.picture_network import load_with_pictures

    pictures = load_with_pictures(checkpoint)
    return TracedParts(pictures.text, pictures, checkpoint.vision)
