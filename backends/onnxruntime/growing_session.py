"""Sessions over ONNX graphs whose K/V come out whole at every step, as optimum and transformers.js have them.

They stay with ONNX Runtime, which allocates them, and are fed back as they are: that copy is the graph's own.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import SessionOptions, Tokens
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, Role
from slmbench.terms import Device

from .graph import OrtGraph, bind, bind_out
from .session import OnnxRuntimeSession

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_PAST, _PRESENT = "past_key_values.", "present."


class GrowingSession(OnnxRuntimeSession):
    """What both families share: a run that takes the K/V before it and leaves those after it."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Create the sessions."""
        super().__init__(artifact, device, options)
        given = artifact.manifest.checkpoint.given
        self._compute = given.compute if given else None
        self._step_role: Role = "decode" if "decode" in self._graphs else self._first_role
        self._bindings = {role: graph.session.io_binding() for role, graph in self._graphs.items()}
        self._kv: dict[str, Any] = {}

    @property
    def _first_role(self) -> Role:
        return "decoder" if "encoder" in self._graphs else "model"

    def compute_precision(self) -> str:
        """Return int8 where the header says that products quantise their input, else the type of the K/V."""
        return "int8" if self._compute == "int8" else super().compute_precision()

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the buffers of steps; those of K/V are ONNX Runtime's."""
        super().reserve(batch, input_tokens, output_tokens)
        self._make_logits()

    def _empty(self, graph: OrtGraph) -> dict[str, Any]:
        """Return K/V of no tokens, for a graph that takes K/V at the prompt too."""
        import onnxruntime as ort

        sizes = self._geometry
        shape = (self._reserved.rows, sizes.kv_heads, 0, sizes.head_dim)
        return {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, _TYPES[port.type]))
            for name, port in graph.inputs.items()
            if name.startswith(_PAST)
        }

    def _run(self, role: Role, feeds: dict[str, Any], *, cached: bool, keep: str = "") -> None:
        """Run a decoder; its last position's logits and its K/V are kept.

        ``keep``: K/V with this in their name stay those of the run before (cross-attention's).
        """
        graph, binding = self._graphs[role], self._bindings[role]
        rows, count = feeds["input_ids"].shape
        self._fed = {
            **feeds, "use_cache_branch": np.array([cached]), "num_logits_to_keep": np.array(1, np.int64),
        }  # fmt: skip
        past = self._kv if cached else self._empty(graph)
        for name in graph.inputs:
            if name in past:
                binding.bind_ortvalue_input(name, past[name])
            elif isinstance(given := self._fed[name], np.ndarray):
                bind(binding, name, given) if given.dtype != np.bool_ else binding.bind_cpu_input(name, given)
            else:
                binding.bind_ortvalue_input(name, given)
        presents = [name for name in graph.outputs if name.startswith(_PRESENT)]
        positions = 1 if "num_logits_to_keep" in graph.inputs else count
        # Outputs come in the order in which they were bound at first.
        logits = self._logits_of(graph, rows, positions)
        for name in presents:
            binding.bind_output(name, "cpu")
        graph.session.run_with_iobinding(binding)
        if logits is not self._logits:
            self._logits[:] = logits[:, -1:]
        made = dict(zip(["logits", *presents], binding.get_outputs(), strict=True))
        for name in presents:
            past_name = name.replace(_PRESENT, _PAST)
            if not (keep and keep in name and past_name in self._kv):
                self._kv[past_name] = made[name]

    def _logits_of(self, graph: OrtGraph, rows: int, positions: int) -> NDArray[Any]:
        """Bind the logits to a buffer that fits, and return it."""
        port = next(one for one in graph.session.get_outputs() if one.name == "logits")
        dtype = _TYPES[port.type]
        fits = positions == 1 and dtype == np.float32
        buffer: NDArray[Any] = self._logits if fits else np.zeros((rows, positions, self._logits.shape[2]), dtype)
        role = next(role for role, one in self._graphs.items() if one is graph)
        bind_out(self._bindings[role], "logits", buffer)
        return buffer


class GrowingDecoderOnlySession(GrowingSession):
    """A decoder-only model: one graph, or one for prompts and one for steps."""

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Read the prompts ``[B, S]``.

        Raises:
            BadInputError: a shape beyond what is reserved.
            CannotRunError: prompts of unequal length.
        """
        self._reserved.start(input_ids)
        if attention_mask is not None and not attention_mask.all():
            raise CannotRunError("prompts of one batch must be equally long for a graph that the user brings")
        self._length = 0
        self._kv = {}
        return self._read(self._first_role, input_ids, cached=False)

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: no place is reserved for another token.
        """
        return self._read(self._step_role, tokens[:, None], cached=True)

    def _read(self, role: Role, ids: Tokens, *, cached: bool) -> Tokens:
        self._reserved.token()
        rows, count = ids.shape
        places = np.arange(self._length, self._length + count, dtype=np.int64)
        self._length += count
        feeds = {
            "input_ids": np.ascontiguousarray(ids, dtype=np.int64),
            "attention_mask": np.ones((rows, self._length), np.int64),
            "position_ids": np.ascontiguousarray(np.broadcast_to(places, (rows, count))),
        }
        self._run(role, feeds, cached=cached)
        return self._next_tokens()


class GrowingEncoderDecoderSession(GrowingSession):
    """An encoder, and a decoder whose first step makes the cross K/V that later ones are fed."""

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Encode the prompts ``[B, N]`` and run the first decoder step; a padded batch is padded on the right.

        Raises:
            BadInputError: the prompts exceed what is reserved.
        """
        self._reserved.start(input_ids)
        began = perf_counter_ns()
        ids = np.ascontiguousarray(input_ids, dtype=np.int64)
        self._mask = np.ones(ids.shape, np.int64) if attention_mask is None else attention_mask.astype(np.int64)
        encoder, binding = self._graphs["encoder"], self._bindings["encoder"]
        bind(binding, "input_ids", ids)
        if "attention_mask" in encoder.inputs:
            bind(binding, "attention_mask", self._mask)
        binding.bind_output(encoder.outputs[0], "cpu")
        encoder.session.run_with_iobinding(binding)
        self._states, self._kv = binding.get_outputs()[0], {}
        encoded = perf_counter_ns()
        first = np.full(self._reserved.rows, self._start_token, dtype=np.int64)
        token = self._decode(self._first_role, first, cached=False)
        self._phases_ns = {"encode": encoded - began, "first_step": perf_counter_ns() - encoded}
        return token

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: no place is reserved for another token.
        """
        return self._decode(self._step_role, tokens, cached=True)

    def _decode(self, role: Role, tokens: Tokens, *, cached: bool) -> Tokens:
        self._reserved.token()
        feeds = {
            "input_ids": np.ascontiguousarray(tokens[:, None], dtype=np.int64),
            "encoder_attention_mask": self._mask,
            "encoder_hidden_states": self._states,
        }
        self._run(role, feeds, cached=cached, keep=".encoder." if cached else "")
        return self._next_tokens()
