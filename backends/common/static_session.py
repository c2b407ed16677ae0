"""The host side of the static layout: one generation loop for every engine that runs such graphs.

The loop owns positions, masks and the K/V slots; an engine gives it memory and a way to run a graph. One buffer
serves every port of one name and shape: what the encoder (or the prompt's graph) writes is where the decoder
step reads, so no K/V is carried anywhere.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Placement, Tokens
from slmbench.errors import BadInputError, CannotRunError
from slmbench.models import static_layout as layout
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint

from .reserved import Reserved

Buffer = NDArray[np.generic]
#: Buffers by the name of their port, for each graph.
Ports = Mapping[Role, Mapping[str, Buffer]]


def bounds(spec: ArtifactSpec) -> tuple[int, int]:
    """Return N and K, the bounds on prompt and new tokens that a static artifact was built for.

    Raises:
        BadInputError: it is not a static artifact.
    """
    if spec.layout != "static" or spec.input_tokens is None or spec.output_tokens is None:
        raise BadInputError(f"{spec.label()}: not a static artifact")
    return spec.input_tokens, spec.output_tokens


class BufferPool:
    """Finds for each port the buffer that its name and shape stand for, or has one made."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[int, ...]], object] = {}

    def get(self, name: str, shape: tuple[int, ...]) -> object | None:
        """Return the engine's tensor for that name and shape, or None where there is none yet."""
        return self._known.get((name, shape))

    def put(self, name: str, shape: tuple[int, ...], tensor: object) -> None:
        """Keep the engine's tensor for that name and shape."""
        self._known[name, shape] = tensor

    def tensors(self) -> list[object]:
        """Return every tensor, so that their owner can keep them alive."""
        return list(self._known.values())


class StaticSession(ABC):
    """A session over a static artifact. Batch 1, greedy, EOS suppressed.

    An engine's subclass makes the graphs and the buffers in its constructor, then calls :meth:`_bind`.
    """

    def __init__(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> None:
        self._input_tokens, self._output_tokens = bounds(spec)
        self._encoder_decoder = checkpoint.family == "encoder-decoder"
        self._start_token = checkpoint.decoder_start_token_id or 0
        self._pad_token = checkpoint.pad_token_id
        self._ends = np.asarray(Reserved(checkpoint).end_tokens, dtype=np.int64)
        self._hidden = layout.mask_value(spec.target, spec.weight_precision)
        self._layers = checkpoint.geometry.decoder_layers
        self._length = self._output_tokens + (0 if self._encoder_decoder else self._input_tokens)
        effective = [layout.effective_window(w, self._length) for w in checkpoint.geometry.windows]
        self._window = next((window for window in effective if window), self._length)
        self._first_role: Role = "encoder" if self._encoder_decoder else "model"
        self._step_role: Role = "decoder" if self._encoder_decoder else "decode"
        self._phases: dict[str, int] = {}
        self._slot = self._position = -1
        self._last_logits: Buffer = np.zeros(0, np.float32)

    @abstractmethod
    def _run(self, role: Role) -> None:
        """Run one graph from its input buffers into its output buffers, and wait for it."""

    @abstractmethod
    def placement(self) -> Placement:
        """Return where the last inference was executed, read back from the engine."""

    def _bind(self, ports: Ports) -> None:
        """Take the buffers: the loop writes and reads them in place from here on."""
        first, step = ports[self._first_role], ports[self._step_role]
        self._prompt_ids = first[layout.INPUT_IDS]
        self._prompt_mask = first[layout.CROSS_MASK if self._encoder_decoder else layout.PROMPT_MASK]
        self._prompt_position = first.get(layout.POSITION)
        self._step_ids, self._step_position = step[layout.INPUT_IDS], step.get(layout.POSITION, np.zeros(1))
        self._merges = layout.SLOT_MASK in step
        self._slot_mask = _row(step.get(layout.SLOT_MASK), self._length)
        self._self_mask = _row(step.get(layout.SELF_MASK), self._length)
        self._window_mask = _row(step.get(layout.WINDOW_MASK), self._length)
        self._first_logits, self._step_logits = _row(first.get(layout.LOGITS)), _row(step[layout.LOGITS])
        self._slots = []
        for past, new in zip(layout.kv_names("past", self._layers), layout.kv_names("new", self._layers), strict=True):
            step[past][...] = 0
            self._slots.append((step[past][0], step[new][0, :, 0]))

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Check the shape against the bounds; the buffers are there already.

        Raises:
            BadInputError: more than one prompt, a longer prompt or more new tokens than the graphs were built for.
        """
        if batch != 1:
            raise BadInputError(f"a static graph takes 1 prompt at a time, {batch} are asked")
        if input_tokens > self._input_tokens:
            raise BadInputError(
                f"a prompt of {input_tokens} tokens is longer than the graph's {self._input_tokens}: export it again"
                f" with --input-tokens {input_tokens}"
            )
        if output_tokens > self._output_tokens:
            raise BadInputError(
                f"{output_tokens} new tokens are more than the graph's {self._output_tokens}: export it again with"
                f" --output-tokens {output_tokens}"
            )

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Read one prompt ``[1, n]`` and return its first token ``[1]``. Padding given by the mask is cut off.

        Raises:
            BadInputError: more than one prompt, or one longer than N.
        """
        started = time.perf_counter_ns()
        prompt = input_ids[0] if attention_mask is None else input_ids[0][attention_mask[0].astype(bool)]
        self.reserve(len(input_ids), len(prompt), 1)
        self._write_prompt(prompt)
        self._run(self._first_role)
        if not self._encoder_decoder:
            self._phases = {}
            return self._choose(self._first_logits)
        encoded = time.perf_counter_ns()
        token = self.step(np.array([self._start_token], dtype=np.int64))
        self._phases = {"encode": encoded - started, "first_step": time.perf_counter_ns() - encoded}
        return token

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``tokens`` ``[1]`` and return the next ``[1]``.

        Raises:
            CannotRunError: the K/V buffers are full.
        """
        slot = self._slot + 1
        if slot >= self._length:
            raise CannotRunError(f"the graph's K/V buffers are full: it was built for {self._output_tokens} new tokens")
        self._step_ids[0, 0] = tokens[0]
        self._position += 1
        self._step_position[0] = self._position
        self._slot = slot
        if slot >= self._window:
            self._window_mask[slot - self._window] = self._hidden
        if self._merges:
            self._slot_mask[slot - 1] = 0
            self._slot_mask[slot] = 1
            self._self_mask[slot] = self._window_mask[slot] = 0
        self._run(self._step_role)
        self._self_mask[slot] = self._window_mask[slot] = 0
        for past, new in self._slots:
            past[:, slot] = new
        return self._choose(self._step_logits)

    def phases_ns(self) -> dict[str, int]:
        """Return the parts of the last start in ns: "encode" and "first_step", nothing for decoder-only."""
        return dict(self._phases)

    def logits(self) -> NDArray[np.float32]:
        """Return the logits behind the token given last, ``[1, V]``."""
        return np.asarray(self._last_logits, np.float32)[None]

    def attention_path(self) -> str:
        """Return "eager": products and a softmax as the graph has them, unless the engine fuses them itself."""
        return "eager"

    def _write_prompt(self, prompt: Tokens) -> None:
        """Put a prompt into the buffers of the first graph and forget the generation before it."""
        count, bound = len(prompt), self._input_tokens
        place = slice(0, count) if self._encoder_decoder else slice(bound - count, bound)
        self._prompt_ids.fill(self._pad_token)
        self._prompt_ids[0, place] = prompt
        self._prompt_mask.fill(self._hidden)
        self._prompt_mask[..., place] = 0
        for mask in (self._self_mask, self._window_mask):
            mask.fill(self._hidden)
        self._slot_mask.fill(0)
        if self._encoder_decoder:
            self._slot = self._position = -1
            return
        if self._prompt_position is not None:
            self._prompt_position.fill(0)
            self._prompt_position[0, place] = np.arange(count)
        self._self_mask[place] = 0
        self._window_mask[max(bound - count, bound - self._window) : bound] = 0
        self._slot, self._position = bound - 1, count - 1

    def _choose(self, logits: Buffer) -> Tokens:
        logits[self._ends] = -np.inf
        self._last_logits = logits
        return np.array([np.argmax(logits)], dtype=np.int64)


def _row(buffer: Buffer | None, length: int = 0) -> Buffer:
    """Return the buffer as one row; where the graph has no such port, a row that nobody reads."""
    return np.zeros(length, dtype=np.float32) if buffer is None else buffer.reshape(-1)
