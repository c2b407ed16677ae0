"""Sessions over dynamic ONNX graphs on ONNX Runtime's CPU provider: our own loop, nothing allocated in it.

Self-attention K/V live in one buffer of full length per layer, bound as past and as present at once: a step writes
its row and copies nothing. Two bindings are kept, for the prompt and for steps; of a step's inputs only the mask is
bound again, since its length is what tells ``GroupQueryAttention`` the position. Where a model is one session, its
threads spin between steps (ONNX Runtime's default), as they do in its own generation loop.
"""

from __future__ import annotations

import math
from collections import Counter
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import UNASKED, Geometry, Pixels, Placement, SessionOptions, Tokens
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, Role
from slmbench.terms import Device

from ..common.cpu_device import default_threads
from ..common.held_pictures import FEATURES, POSITIONS
from ..common.next_token import StepLogits, TokenChooser
from ..common.reserved import Reserved
from .graph import CPU, OrtGraph, bind, bind_out
from .static_session import base_settings, settings_in_effect, shipped_settings
from .vision_part import hold_pictures

_PRECISION = {"tensor(float)": "fp32", "tensor(float16)": "fp16", "tensor(bfloat16)": "bf16"}


class OnnxRuntimeSession:
    """What sessions of both families share. Not thread-safe."""

    #: The graph that runs at every step.
    _step_role: Role

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Create a session for each graph.

        Raises:
            CannotRunError: ONNX Runtime refuses a graph.
        """
        checkpoint = artifact.manifest.checkpoint
        self._device, self._threads, self._options = device, options.threads or default_threads(), options
        self._geometry = checkpoint.geometry
        self._reserved = Reserved(checkpoint, pictures=artifact.manifest.spec.pictures)
        self._start_token = checkpoint.decoder_start_token_id or 0
        self._graphs = {role: self._open(role, artifact) for role in artifact.manifest.graphs}
        self._phases_ns: dict[str, int] = {}
        self._choice = TokenChooser()
        self._pictures = hold_pictures(checkpoint, self._graphs.get("vision"))

    def take_pictures(self, pixels: Pixels) -> None:
        """Hold the pictures of the next start and of those after it.

        Raises:
            BadInputError: the artifact takes no pictures, or others than these.
        """
        self._pictures.take(pixels)

    def _bind_features(self, binding: Any, features: Any) -> None:
        """Have a graph read these features, if it takes any."""
        if features is not None:
            binding.bind_ortvalue_input(FEATURES, features)
        if self._pictures.positions is not None:
            binding.bind_ortvalue_input(POSITIONS, self._pictures.positions)

    def _open(self, role: Role, artifact: Artifact) -> OrtGraph:
        """Create the session of one graph."""
        if self._options.settings == "shipped":
            return OrtGraph(artifact.graph(role), shipped_settings(self._options.threads))
        # A vision graph counts: threads that spun after the last step made it take 1.4 times as long.
        alone = len(artifact.manifest.graphs) == 1
        return OrtGraph(artifact.graph(role), base_settings(self._threads, alone=alone))

    def draw(self, seed: int | None) -> None:
        """Draw tokens with this seed from the next start on; None: take the best."""
        self._choice.draw(seed)

    def margins(self) -> NDArray[np.float64]:
        """Return how far each token given last was ahead of the second best, ``[B]``."""
        return self._choice.margins()

    def logits(self) -> NDArray[np.float32]:
        """Return the logits behind the tokens given last, ``[B, V]``."""
        return self._choice.logits()

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Check the shape against what the graphs hold, and remember it.

        Raises:
            BadInputError: the graphs have positions for fewer tokens.
        """
        decoder_only = "model" in self._graphs
        longest = input_tokens + output_tokens if decoder_only else max(input_tokens, output_tokens)
        for graph in self._graphs.values():
            self._reserved.check_positions(longest, graph.max_positions)
        self._reserved.take(batch, input_tokens, output_tokens)

    def _self_kv(self, graph: OrtGraph, length: int) -> dict[str, NDArray[np.float32]]:
        """Return zeroed K/V buffers ``[B, kv, length, d]`` by the names of the past inputs."""
        pasts = (port for name, port in graph.inputs.items() if name.startswith("past_key_values."))
        return {
            port.name: np.zeros(_kv_shape(port, self._geometry, self._reserved.rows, length), np.float32)
            for port in pasts
        }

    def _bind_kv(self, binding: Any, buffers: dict[str, NDArray[np.float32]], rows: int | None = None) -> None:
        """Bind K/V of all rows, or of the first ``rows``, as past and as present."""
        for name, buffer in buffers.items():
            shape = (rows or self._reserved.rows, *buffer.shape[1:])
            bind(binding, name, buffer, shape=shape)
            bind_out(binding, name.replace("past_key_values.", "present."), buffer, shape=shape)

    def _make_logits(self) -> None:
        """Make the buffer that both bindings write."""
        self._logits = np.zeros((self._reserved.rows, 1, self._geometry.vocab_size), np.float32)
        self._step_logits = StepLogits(self._logits, self._reserved.end_tokens)

    def _next_tokens(self) -> Tokens:
        """Return the best token of each row, ends of sequence aside."""
        return self._choice(self._step_logits.without_ends())

    def phases_ns(self) -> dict[str, int]:
        """Return the parts of the last start, in ns."""
        return dict(self._phases_ns)

    def placement(self) -> Placement:
        """Return the providers that nodes are assigned to, as the sessions recorded it."""
        nodes: Counter[str] = sum((graph.nodes() for graph in self._graphs.values()), Counter())
        others = sorted(name for name in nodes if name != CPU)
        return Placement(self._device, "+".join(others) or ("cpu" if nodes else "unknown"), dict(nodes))

    def compute_precision(self) -> str:
        """Return int8 where products quantise their input, else the type of the K/V: that of everything between."""
        if "MatMulNBits" in self._graphs[self._step_role].operators():
            return "int8"
        types = {port.type for name, port in self._graphs[self._step_role].inputs.items() if "key" in name}
        return "+".join(sorted(_PRECISION.get(one, one) for one in types))

    def settings(self) -> dict[str, tuple[str, str]]:
        """Return threads and level of optimisation, which a model may bring along and ONNX Runtime may obey."""
        shipped = self._options.settings == "shipped"
        asked = self._options.threads or UNASKED if shipped else self._threads
        return settings_in_effect(asked, [graph.session for graph in self._graphs.values()])

    def threads(self) -> int:
        """Return the threads within an operator, as the session reports them; where it chose, those that it started."""
        graph = self._graphs[self._step_role]
        return int(graph.session.get_session_options().intra_op_num_threads) or graph.threads

    def attention_path(self) -> str:
        """Return "GroupQueryAttention" where self-attention and its K/V update are that operator, else "unfused"."""
        found = "GroupQueryAttention" in self._graphs[self._step_role].operators()
        return "GroupQueryAttention" if found else "unfused"

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load": ONNX Runtime reads, optimises and prepacks in one."""
        return {"load": sum(graph.load_ns for graph in self._graphs.values())}

    def close(self) -> None:
        """Free sessions, bindings and buffers."""
        self.__dict__.clear()


def _kv_shape(port: Any, geometry: Geometry, rows: int, length: int) -> tuple[int, ...]:
    """Return the shape of K or V for a port ``[B, kv, L, d]``; what the graph only names is the checkpoint's."""
    heads, size = port.shape[1], port.shape[3]
    return (
        rows,
        heads if isinstance(heads, int) else geometry.kv_heads,
        length,
        size if isinstance(size, int) else geometry.head_dim,
    )


class OrtDecoderOnlySession(OnnxRuntimeSession):
    """One graph for the prompt and for steps."""

    _step_role: Role = "model"

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Create the session."""
        super().__init__(artifact, device, options)
        self._takes_padding = artifact.manifest.spec.exporter != "genai"

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the K/V buffers of full length, the mask of each length and both bindings."""
        import onnxruntime as ort

        super().reserve(batch, input_tokens, output_tokens)
        graph = self._graphs["model"]
        total = input_tokens + output_tokens
        self._kv = self._self_kv(graph, total)
        self._make_logits()
        self._ids = np.zeros((batch, 1), np.int64)
        # Masks of growing length are the beginnings of one buffer: rows of ones look the same at any length.
        ones = np.ones(batch * total, np.int64)
        self._masks = [
            ort.OrtValue.ortvalue_from_numpy(ones[: batch * length].reshape(batch, length))
            for length in range(1, total + 1)
        ]
        self._prompt, self._step = graph.session.io_binding(), graph.session.io_binding()
        for binding in (self._prompt, self._step):
            self._bind_kv(binding, self._kv)
            bind_out(binding, "logits", self._logits)
            self._bind_features(binding, self._pictures.none)
        self._prompt_rows = batch
        bind(self._step, "input_ids", self._ids)

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Prefill the prompts ``[B, S]``.

        A padded batch comes padded on the left; the operator wants rows to begin with their first token and to
        know their lengths, so rows are turned.

        Raises:
            BadInputError: a shape beyond what is reserved.
            CannotRunError: a padded batch for a graph that has no place for it.
        """
        count = self._reserved.start(input_ids, shared=True)
        began = perf_counter_ns()
        batch, length = input_ids.shape
        ids = np.ascontiguousarray(input_ids, dtype=np.int64)
        self._lengths: Tokens | None = None
        if attention_mask is not None and not attention_mask.all():
            if not self._takes_padding:
                raise CannotRunError(
                    "graphs of onnxruntime-genai's builder give logits of the last column: prompts of one batch must "
                    "be equally long; slmbench's own graphs take unequal ones (--exporter slmbench)"
                )
            self._lengths = attention_mask.sum(axis=1)
            ids = np.stack([np.roll(row, count) for row, count in zip(ids, self._lengths, strict=True)])
        if batch != self._prompt_rows:
            self._prompt_rows = batch
            self._bind_kv(self._prompt, self._kv, batch)
            bind_out(self._prompt, "logits", self._logits, shape=(batch, *self._logits.shape[1:]))
        self._length = length
        self._bind_features(self._prompt, self._pictures.features_for(input_ids))
        self._bind_features(self._step, self._pictures.none)
        self._read(ids)
        if count > 1:
            self._spread(batch, count)
        token = self._next_tokens()
        self._phases_ns = self._pictures.prefill_ns(perf_counter_ns() - began)
        return token

    def _spread(self, batch: int, count: int) -> None:
        """Give each of ``batch`` prompts ``count`` rows with its K/V and its logits."""
        for buffer in (self._logits, *(kv[:, :, : self._length] for kv in self._kv.values())):
            buffer[:] = np.repeat(buffer[:batch], count, axis=0)
        if self._lengths is not None:
            self._lengths = np.repeat(self._lengths, count)

    def extend(self, input_ids: Tokens) -> Tokens:
        """Read ``[B, n]`` behind the K/V that are there; the first of them is the last token given.

        Raises:
            BadInputError: no place is reserved for them, or the prompts were padded.
            CannotRunError: a batch, which ``GroupQueryAttention`` does not continue.
        """
        batch, count = input_ids.shape
        if batch > 1:
            raise CannotRunError("ONNX Runtime's GroupQueryAttention reads several tokens behind K/V at batch 1 only")
        self._reserved.extend(input_ids, self._length, padded=self._lengths is not None)
        self._length += count
        self._read(np.ascontiguousarray(input_ids, dtype=np.int64))
        return self._next_tokens()

    def _read(self, ids: Tokens) -> None:
        """Run the prompt's binding for ids ``[rows, n]`` that end at the current length."""
        self._reserved.token()
        bind(self._prompt, "input_ids", ids)
        self._bind_mask(self._prompt, len(ids))
        self._graphs["model"].session.run_with_iobinding(self._prompt)

    def _bind_mask(self, binding: Any, rows: int) -> None:
        """Bind the mask ``[rows, length]``; unequal rows begin with their first token."""
        if self._lengths is not None or rows != self._reserved.rows:
            ends = self._lengths[:, None] if self._lengths is not None else self._length
            self._mask = np.broadcast_to(np.arange(self._length) < ends, (rows, self._length)).astype(np.int64)
            bind(binding, "attention_mask", self._mask)
            return
        binding.bind_ortvalue_input("attention_mask", self._masks[self._length - 1])

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: no place is reserved for another token.
        """
        self._reserved.token()
        self._ids[:, 0] = tokens
        self._length += 1
        if self._lengths is not None:
            self._lengths = self._lengths + 1
        self._bind_mask(self._step, self._reserved.rows)
        self._graphs["model"].session.run_with_iobinding(self._step)
        return self._next_tokens()


class OrtEncoderDecoderSession(OnnxRuntimeSession):
    """An encoder graph that writes the cross K/V where the decoder graph reads them."""

    _step_role: Role = "decoder"

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make self and cross K/V buffers of full length and both bindings."""
        super().reserve(batch, input_tokens, output_tokens)
        encoder, decoder = self._graphs["encoder"], self._graphs["decoder"]
        ports = {name: decoder.inputs[name] for name in encoder.outputs}
        self._cross = {
            name: np.zeros(math.prod(_kv_shape(port, self._geometry, batch, input_tokens)), np.float32)
            for name, port in ports.items()
        }
        self._kv = self._self_kv(decoder, output_tokens)
        self._make_logits()
        self._ids, self._position = np.zeros((batch, 1), np.int64), np.zeros(1, np.int64)
        self._prompt, self._step = encoder.session.io_binding(), decoder.session.io_binding()
        self._bind_kv(self._step, self._kv)
        bind_out(self._step, "logits", self._logits)
        bind(self._step, "input_ids", self._ids)
        bind(self._step, "position", self._position)
        self._encoded = (0, 0)

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Encode the prompts ``[B, N]`` and run the first decoder step; a padded batch is padded on the right.

        Raises:
            BadInputError: the prompts exceed what is reserved.
        """
        count = self._reserved.start(input_ids, shared=True)
        self._bind_features(self._prompt, self._pictures.features_for(input_ids))
        began = perf_counter_ns()
        batch, length = input_ids.shape
        ids = np.ascontiguousarray(input_ids, dtype=np.int64)
        mask = np.ones((batch, length), np.int64) if attention_mask is None else attention_mask.astype(np.int64)
        self._mask = np.repeat(mask, count, axis=0)
        bind(self._prompt, "input_ids", ids)
        bind(self._prompt, "attention_mask", mask)
        bind(self._step, "encoder_attention_mask", self._mask)
        if (batch, length) != self._encoded:
            self._bind_cross(batch, length)
        self._graphs["encoder"].session.run_with_iobinding(self._prompt)
        if count > 1:
            self._spread(batch, length, count)
        encoded = perf_counter_ns()
        token = self.step(np.full(self._reserved.rows, self._start_token, dtype=np.int64))
        parts = {"encode": encoded - began, "first_step": perf_counter_ns() - encoded}
        self._phases_ns = {**self._pictures.phases_ns(), **parts}
        return token

    def _cross_shape(self, name: str, rows: int, length: int) -> tuple[int, ...]:
        return _kv_shape(self._graphs["decoder"].inputs[name], self._geometry, rows, length)

    def _bind_cross(self, batch: int, length: int) -> None:
        for name, buffer in self._cross.items():
            bind_out(self._prompt, name, buffer, shape=self._cross_shape(name, batch, length))
            bind(self._step, name, buffer, shape=self._cross_shape(name, self._reserved.rows, length))
        self._encoded = batch, length

    def _spread(self, batch: int, length: int, count: int) -> None:
        """Give each of ``batch`` prompts ``count`` rows with its cross K/V."""
        for name, buffer in self._cross.items():
            shape = self._cross_shape(name, self._reserved.rows, length)
            rows = buffer[: math.prod(shape)].reshape(shape)
            rows[:] = np.repeat(rows[:batch], count, axis=0)

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: no place is reserved for another token.
        """
        self._position[0] = self._reserved.token()
        self._ids[:, 0] = tokens
        self._graphs["decoder"].session.run_with_iobinding(self._step)
        return self._next_tokens()

    def reread(self, tokens: Tokens) -> Tokens:
        """Read the start token and the answer so far ``[B, n]`` from position 0 on; return the next tokens.

        Raises:
            BadInputError: no place is reserved for another token.
        """
        self._reserved.token()
        whole = np.insert(tokens, 0, self._start_token, axis=1)
        self._position[0] = 0
        bind(self._step, "input_ids", whole)
        self._graphs["decoder"].session.run_with_iobinding(self._step)
        bind(self._step, "input_ids", self._ids)
        return self._next_tokens()
