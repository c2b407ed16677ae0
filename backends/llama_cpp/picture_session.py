"""Pictures on llama.cpp: libmtmd makes features of tiles, and the text's network reads them between token ids.

The prompt is the very ids that other engines read; a run of image tokens is a batch of rows in the place of ids, which
stay where libmtmd wrote them.
"""

from __future__ import annotations

from itertools import groupby
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import UNASKED, Pixels, Placement, SessionOptions, Tokens
from slmbench.errors import BadInputError
from slmbench.given.projector_file import tiles_across
from slmbench.models.artifact import Artifact
from slmbench.terms import Device

from ..common.held_pictures import HeldPictures
from ..common.reserved import Reserved
from .bindings import FeatureBatch
from .gguf_header import projector_header
from .mtmd import Projector, Tile, bytes_of_pixels
from .session import LlamaCppSession

#: libmtmd's graphs round these to 16 bits whatever the weights are, which its records must say.
_ROUNDED = "patches and GELU in F16"


class LlamaCppPictureSession(LlamaCppSession):
    """A session whose prompts may have pictures. Batch 1."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Look at both files, let llama.cpp open the model and libmtmd the projector.

        Raises:
            CannotRunError: one is not what slmbench's exporter writes, or is refused.
        """
        header = projector_header(artifact)
        super().__init__(artifact, device, options)
        checkpoint = artifact.manifest.checkpoint
        assert checkpoint.vision is not None
        self._reserved = Reserved(checkpoint, pictures=True)
        self._suppressed = np.array(self._reserved.end_tokens, dtype=np.int64)
        self._token, self._tokens_each = checkpoint.vision.image_token_id, checkpoint.vision.tokens_per_tile
        self._side, self._width = checkpoint.vision.image_size, checkpoint.geometry.width
        self._mean, self._std = header.values["clip.vision.image_mean"], header.values["clip.vision.image_std"]
        # Positions are added, not multiplied with.
        matrices = (one for one in header.tensors if len(one.shape) == 2 and "position" not in one.name)
        self._vision_types = sorted({one.type for one in matrices})
        words = header.values["clip.projector_type"] != "mlp"
        self._projector = Projector(
            artifact.graph("vision"), self._threads, flash=self._flash, words=words, across=tiles_across(header) or 1
        )
        self._load_ns += self._projector.load_ns
        self._pictures = HeldPictures(checkpoint, ("pixel_values",), self._prepare, self._see, 0)
        self._kept: NDArray[np.float32] = np.zeros((0, self._width), np.float32)
        self._joined = self._projector.joins_places
        self._together = self._tokens_each if self._joined else 0
        windows = [one for one in checkpoint.geometry.windows if one is not None]
        self._window = min(windows) if self._joined and windows else None
        self._start_ns = 0

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the context and the batches, of image tokens as well.

        Raises:
            BadInputError: more tokens than the model has positions for.
            CannotRunError: llama.cpp makes no such context.
        """
        super().reserve(batch, input_tokens, output_tokens)
        self._features = FeatureBatch(self._model.engine, input_tokens)

    def take_pictures(self, pixels: Pixels) -> None:
        """Hold pictures for the next starts; an empty mapping: none.

        Raises:
            BadInputError: these are not tiles that the vision part reads.
        """
        self._pictures.take(pixels)

    def _prepare(self, pixels: NDArray[Any]) -> list[Tile]:
        """Hand the tiles ``[n, 3, H, W]`` to libmtmd; not timed, as other engines get theirs normalised."""
        if pixels.shape[1:] != (3, self._side, self._side):
            raise BadInputError(
                f"{self._reserved.name}: tiles of 3x{self._side}x{self._side} pixels are read, not "
                f"{'x'.join(map(str, pixels.shape[1:]))}"
            )
        tiles = self._projector.prepare(list(bytes_of_pixels(pixels, self._mean, self._std)))
        if other := [one.rows for one in tiles if one.rows != self._tokens_each]:
            raise BadInputError(
                f"{self._reserved.name}: a tile is {self._tokens_each} image tokens, libmtmd makes {other[0]} of it"
            )
        rows = len(tiles) * self._tokens_each
        if self._window is not None and rows > self._window:
            raise BadInputError(
                f"{self._reserved.name}: image tokens see each other beyond the attention window of {self._window}, "
                f"but not in llama.cpp: {rows} image tokens are too many"
            )
        if len(tiles) > 1:
            self._kept = np.zeros((rows, self._width), np.float32)
        if self._joined and rows > self._together:
            self._make_room(rows)
        return tiles

    def _make_room(self, rows: int) -> None:
        """Let the context read so many rows at once: llama.cpp ends the process where they do not fit."""
        self._together = rows
        if self._context is not None:
            self._close_context()
            self._context = self._make_context()

    def _see(self, taken: dict[str, list[Tile]]) -> tuple[int, int]:
        """Return where the features of all tiles are, and how many rows: libmtmd's own buffer where it is one tile."""
        tiles = taken["pixel_values"]
        if len(tiles) == 1:
            return self._projector.encode(tiles[0]), tiles[0].rows
        for place, tile in enumerate(tiles):
            # It has a buffer for one.
            address, begin = self._projector.encode(tile), place * self._tokens_each
            rows = (self._tokens_each, self._width)
            self._kept[begin : begin + self._tokens_each] = _floats_at(address, rows)
        return self._kept.ctypes.data, len(self._kept)

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Read the prompt ``[1, S]``, the features of its pictures at its image tokens.

        Raises:
            BadInputError: a shape beyond what is reserved, or other places than the pictures take.
        """
        began = perf_counter_ns()
        address = self._pictures.features_for(input_ids)
        if not np.any(input_ids == self._token):
            tokens = super().start(input_ids, attention_mask)
        else:
            tokens = self._start_with(input_ids, address)
        self._start_ns = perf_counter_ns() - began
        return tokens

    def _start_with(self, input_ids: Tokens, address: int) -> Tokens:
        context = self._opened()
        self._reserved.start(input_ids)
        context.forget()
        self._padded = False
        self._step.places[:] = 0
        ids, place = input_ids[0], 0
        for pictured, run in groupby((ids == self._token).tolist()):
            count = sum(1 for _ in run)
            batch = self._features if pictured else self._prompt
            batch.fill(count)
            batch.rows[:count] = 0
            batch.places[:count] = np.arange(place, place + count)
            if pictured:
                self._features.point_at(address)
                address += count * self._width * 4
            else:
                batch.tokens[:count] = ids[place : place + count]
            place += count
            if pictured and self._joined:
                context.see_each_other(True)
            if place < len(ids):
                context.feed(batch)
            else:
                batch.wanted[count - 1] = 1
                self._reserved.token()
                logits = context.decode(batch, 1)
            if pictured and self._joined:
                context.see_each_other(False)
        self._step.places[:] = place
        return self._next_tokens(logits)

    def phases_ns(self) -> dict[str, int]:
        """Return "vision", where the last start made features, and "prefill", the rest of a start after pictures."""
        return self._pictures.prefill_ns(self._start_ns)

    def placement(self) -> Placement:
        """Return "cpu" where the text's buffers are in the host's memory and libmtmd says that it computes there."""
        found, device = super().placement(), self._projector.device or "unknown"
        if device == "CPU":
            return found
        return Placement(found.requested, f"{found.executed_on}+{device}", found.nodes)

    def settings(self) -> dict[str, tuple[str, str]]:
        """Return the text's settings, and what the projector file holds and how libmtmd computes it."""
        projector = self._projector
        found = super().settings() | {
            "vision weights": (UNASKED, "+".join(self._vision_types)),
            "vision rounding": (UNASKED, _ROUNDED),
            "vision threads": (str(self._threads), self._openmp.in_words(projector.threads)),
        }
        if projector.flash is not None:
            asked = {None: UNASKED, True: "enabled", False: "disabled"}[self._flash]
            found["vision flash attention"] = asked, projector.flash
        return found

    def close(self) -> None:
        """Free the projector, the context and the model."""
        self._projector.close()
        super().close()


def _floats_at(address: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    import ctypes

    count = shape[0] * shape[1]
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
