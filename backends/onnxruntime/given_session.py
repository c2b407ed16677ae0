"""Sessions over ONNX graphs that the user brings: our own loop feeds what a graph asks for, and changes nothing in it.

Where attention is ``GroupQueryAttention``, K/V stay in one buffer of full length, as with slmbench's own graphs. Other
graphs give the whole K/V again at every step (see :mod:`.growing_session`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Session, SessionOptions, Tokens
from slmbench.models.artifact import Artifact
from slmbench.models.given_record import ALL_LOGITS, NO_SHARED_BUFFER, GivenRecord
from slmbench.terms import Device

from .graph import OrtGraph, bind, bind_out
from .growing_session import GrowingDecoderOnlySession, GrowingEncoderDecoderSession
from .session import OrtDecoderOnlySession

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_given(artifact: Artifact, device: Device, options: SessionOptions) -> Session:
    """Open the session that fits the graph.

    Raises:
        CannotRunError: ONNX Runtime refuses it.
    """
    checkpoint = artifact.manifest.checkpoint
    assert checkpoint.given is not None
    if checkpoint.family == "encoder-decoder":
        return GrowingEncoderDecoderSession(artifact, device, options)
    shared = NO_SHARED_BUFFER not in checkpoint.given.flags
    if shared:
        return SharedBufferSession(artifact, device, options)
    return GrowingDecoderOnlySession(artifact, device, options)


class SharedBufferSession(OrtDecoderOnlySession):
    """A graph of one file with ``GroupQueryAttention``; its logits may be those of every position."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Create the session."""
        super().__init__(artifact, device, options)
        assert artifact.manifest.checkpoint.given is not None
        self._given: GivenRecord = artifact.manifest.checkpoint.given
        # Whether the graph has a place for unequal lengths is not known.
        self._takes_padding = False
        inputs = self._graphs["model"].inputs
        self._has_positions = "position_ids" in inputs
        self._many_logits = ALL_LOGITS in self._given.flags

    def compute_precision(self) -> str:
        """Return what the header says of products with packed weights; else the type of the K/V."""
        if self._given.compute == "int8":
            return "int8"
        types = {port.type for name, port in self._graphs["model"].inputs.items() if "key" in name}
        return "fp32" if types == {"tensor(float)"} else "+".join(sorted(types))

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make buffers and bindings; those of a prompt's logits when it comes."""
        super().reserve(batch, input_tokens, output_tokens)
        graph = self._graphs["model"]
        self._positions = np.zeros((batch, 1), np.int64)
        self._last_only = np.array(1, np.int64)
        for binding in (self._prompt, self._step):
            if "num_logits_to_keep" in graph.inputs:
                bind(binding, "num_logits_to_keep", self._last_only)
        if self._has_positions:
            bind(self._step, "position_ids", self._positions)
        self._prompt_logits: NDArray[np.float32] | None = None

    def _read(self, ids: Tokens) -> None:
        graph, rows, count = self._graphs["model"], *ids.shape
        self._reserved.token()
        bind(self._prompt, "input_ids", ids)
        self._bind_mask(self._prompt, rows)
        if self._has_positions:
            places = np.arange(self._length - count, self._length, dtype=np.int64)
            self._prompt_positions = np.ascontiguousarray(np.broadcast_to(places, (rows, count)))
            bind(self._prompt, "position_ids", self._prompt_positions)
        if self._many_logits:
            self._read_all(graph, rows, count)
        else:
            graph.session.run_with_iobinding(self._prompt)
        self._positions[:] = self._length - 1

    def _read_all(self, graph: OrtGraph, rows: int, count: int) -> None:
        """Run a prompt whose logits are those of every position; keep the last."""
        shape = (rows, count, self._geometry.vocab_size)
        if self._prompt_logits is None or self._prompt_logits.shape != shape:
            self._prompt_logits = np.zeros(shape, np.float32)
            bind_out(self._prompt, "logits", self._prompt_logits)
        graph.session.run_with_iobinding(self._prompt)
        self._logits[:rows, 0] = self._prompt_logits[:, -1]

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next."""
        self._positions += 1
        return super().step(tokens)
