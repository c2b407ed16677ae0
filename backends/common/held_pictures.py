"""The pictures that a session holds: pixels that were taken, and the features that its engine made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Ability, ArtifactSpec, BadInputError, Checkpoint, Pixels, Tokens
from slmbench.models.picture_places import positions_of_prompt
from slmbench.models.vision_facts import GRIDS
from slmbench.terms import Exporter

#: The vision graph's output, and the input of the graph that reads prompts.
FEATURES = "image_features"
#: The positions of a prompt's tokens, where image tokens have a row and a column.
POSITIONS = "image_positions"


def picture_abilities(checkpoint: Checkpoint, spec: ArtifactSpec, also: Sequence[Exporter] = ()) -> frozenset[Ability]:
    """Return "pictures" for an artifact that was made for them in a form that our loops know, else nothing.

    ``also`` are exporters in addition to our own whose graphs a backend's loop knows.
    """
    brought = checkpoint.given is not None and "vision" in dict(checkpoint.given.graphs)
    known = (spec.exporter in ("generic", "none", *also) or brought) and spec.layout == "dynamic" and not spec.target
    takes = spec.pictures and checkpoint.vision is not None and checkpoint.vision.refusal is None
    return frozenset(("pictures",)) if known and takes else frozenset()


class HeldPictures:
    """Pixels become features once, at the first start after they were taken; features stay the engine's own tensors."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        names: Sequence[str],
        prepare: Callable[[NDArray[Any]], Any],
        see: Callable[[dict[str, Any]], tuple[Any, int]],
        none: Any,
    ) -> None:
        """Take the vision graph's inputs, what makes tensors of arrays, and what makes features and says how many.

        ``none`` are the features where there is no picture.
        """
        self._checkpoint, self._names, self._prepare, self._see, self.none = checkpoint, names, prepare, see, none
        self._token = checkpoint.vision.image_token_id if names and checkpoint.vision else None
        self.features, self._rows = none, 0
        self._pixels: dict[str, Any] = {}
        self._vision_ns: int | None = None
        self._merge = checkpoint.vision.merge_size if names and checkpoint.vision else 0
        self._grids: NDArray[np.int64] | None = None
        #: The engine's tensor of the positions ``[3, R]`` of the last prompt; None where its tokens have one each.
        self.positions = prepare(np.zeros((3, 1), np.int64)) if self._merge else None

    @classmethod
    def refused(cls, checkpoint: Checkpoint) -> HeldPictures:
        """Return what takes no pictures, of an artifact that was made for text alone."""
        return cls(checkpoint, (), lambda array: array, lambda _: (None, 0), None)

    def take(self, pixels: Pixels) -> None:
        """Hold pixels for the next start; an empty mapping: no pictures.

        Raises:
            BadInputError: the artifact takes no pictures, or others than these.
        """
        if pixels and not self._names:
            raise BadInputError(f"{self._checkpoint.name}: this artifact was made for text alone; it takes no pictures")
        if pixels and (missing := [name for name in self._names if name not in pixels]):
            raise BadInputError(f"{self._checkpoint.name}: pictures come as {', '.join(pixels)}, without {missing[0]}")
        arrays = {name: np.ascontiguousarray(pixels[name]) for name in self._names} if pixels else {}
        self._pixels = {name: self._prepare(array) for name, array in arrays.items()}
        self._grids = arrays.get(GRIDS)
        if self._grids is not None and (self._grids != self._grids[:1]).any():
            raise BadInputError(f"{self._checkpoint.name}: the pictures of a prompt must have one shape")
        self.features, self._rows = self.none, 0

    def features_for(self, input_ids: Tokens) -> Any:
        """Return the features that go with a prompt; made now where pictures were taken since.

        Raises:
            BadInputError: the prompt keeps more or fewer places for them, or there are several prompts.
        """
        self._vision_ns = None
        if self._token is None:
            return self.features
        if self._pixels:
            began = perf_counter_ns()
            self.features, self._rows = self._see(self._pixels)
            self._pixels = {}
            self._vision_ns = perf_counter_ns() - began
        places = int(np.count_nonzero(input_ids == self._token))
        if places != self._rows or (places and len(input_ids) != 1):
            raise BadInputError(
                f"{self._checkpoint.name}: {len(input_ids)} prompt{'s' * (len(input_ids) > 1)} with {places} image "
                f"tokens, and pictures that make {self._rows}: one prompt with a token for each is taken"
            )
        if self._merge:
            grids = np.zeros((0, 3), np.int64) if self._grids is None else self._grids
            self.positions = self._prepare(positions_of_prompt(input_ids[0], self._token, grids, self._merge))
        return self.features

    def phases_ns(self) -> dict[str, int]:
        """Return "vision", where the last start made features."""
        return {} if self._vision_ns is None else {"vision": self._vision_ns}

    def prefill_ns(self, whole_ns: int) -> dict[str, int]:
        """Return the parts of a start: "vision" where it made features, and after pictures "prefill", the rest."""
        found = self.phases_ns()
        return {**found, "prefill": whole_ns - sum(found.values())} if self._rows else found
