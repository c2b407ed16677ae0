"""Sessions over dynamic OpenVINO graphs, on the CPU or a GPU: our own loop, nothing allocated in it.

Inputs live in buffers of full size made by ``reserve``; an infer request is given views of them, so that a step
writes a few numbers and calls ``infer``. The state of the graph holds the self-attention K/V.
"""

from __future__ import annotations

import math
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.artifact import Artifact, Role
from slmbench.backend import Placement, SessionOptions, Tokens
from slmbench.errors import BadInputError, CannotRunError, told_last
from slmbench.quiet import silence_telemetry
from slmbench.terms import Device

from ._choice import Choice
from ._openvino_options import PRECISION, device_properties, settings_in_effect
from ._static_openvino import executed_on

#: The operator that OpenVINO's CPU plugin makes of attention; where it reads a state, it updates it as well.
_FUSED, _STATE = "ScaledDotProductAttention", "MemoryInput"


class _Compiled:
    """A compiled graph with one request."""

    def __init__(self, core: Any, path: Path, engine_name: str, properties: dict[str, Any]) -> None:
        started = perf_counter_ns()
        try:
            model = core.read_model(path)
            self.load_ns = perf_counter_ns() - started
            self.model = core.compile_model(model, engine_name, properties)
        except (RuntimeError, UnicodeDecodeError) as error:
            reason = told_last(error)
            raise CannotRunError(f"{path}: OpenVINO does not compile it for {engine_name}: {reason}") from error
        self.compile_ns = perf_counter_ns() - started - self.load_ns
        self.request = self.model.create_infer_request()
        self.names = {name for port in self.model.inputs for name in port.get_names()}


class StepIds:
    """An input ``[B, 1]`` of int64, one number a row, written in place."""

    def __init__(self, batch: int) -> None:
        import openvino as ov

        self._array = np.zeros((batch, 1), dtype=np.int64)
        self._flat = self._array.data.cast("B").cast("q")
        self.tensor = ov.Tensor(self._array, shared_memory=True)

    def put(self, numbers: Tokens) -> None:
        """Write ``[B]`` numbers."""
        for row, number in enumerate(numbers.tolist()):
            self._flat[row] = number

    def advance(self) -> None:
        """Add one to each."""
        for row, number in enumerate(self._flat):
            self._flat[row] = number + 1


class OpenVinoSession:
    """What sessions of both families share. Not thread-safe."""

    #: The graph that runs at every step.
    _step_role: Role

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions, engine_name: str) -> None:
        """Compile the artifact's graphs.

        Raises:
            CannotRunError: OpenVINO refuses a graph or a property.
        """
        silence_telemetry()
        import openvino as ov

        self._device = device
        checkpoint = artifact.manifest.checkpoint
        self._vocabulary = checkpoint.geometry.vocab_size
        self._ends = [token for token in checkpoint.eos_token_ids if token < self._vocabulary]
        core = ov.Core()
        self._asked = properties = device_properties(options, engine_name)
        self._graphs: dict[Role, _Compiled] = {
            role: _Compiled(core, artifact.graph(role), engine_name, properties) for role in artifact.manifest.graphs
        }
        self._phases_ns: dict[str, int] = {}
        self._choice = Choice()
        self._batch = self._input = self._output = self._left = 0

    def draw(self, seed: int | None) -> None:
        """Draw tokens with this seed from the next start on; None: take the best."""
        self._choice.draw(seed)

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make buffers for the shape; a smaller prompt may come, a larger one is refused."""
        import openvino as ov

        self._batch, self._input, self._output = batch, input_tokens, output_tokens
        self._ids = StepIds(batch)
        # Logits are written here, where they are looked at without asking for them at every step. A graph that gives
        # those of every position makes this larger; a step's are at its beginning.
        request = self._graphs[self._step_role].request
        width = request.get_compiled_model().output(0).get_partial_shape()[2]
        self._width = width.get_length() if width.is_static else self._vocabulary
        self._logits = ov.Tensor(ov.Type.f32, ov.Shape([batch, 1, self._width]))
        request.set_output_tensor(0, self._logits)
        self._rows: NDArray[np.float32] | None = None

    def _check(self, input_ids: Tokens) -> int:
        """Return how many rows answer each prompt."""
        batch, length = input_ids.shape
        if self._batch % batch or length > self._input:
            raise BadInputError(
                f"a prompt of shape {batch}x{length} was given, {self._batch}x{self._input} at most is reserved"
            )
        self._left = self._output
        return self._batch // int(batch)

    def _count_token(self) -> None:
        if self._left == 0:
            raise BadInputError(f"token {self._output + 1} was asked, {self._output} are reserved")
        self._left -= 1

    def _first_tokens(self) -> Tokens:
        """Return the best token of each row after a prompt, ends of sequence aside."""
        logits = self._logits.data[:, -1]
        logits[:, self._ends] = -np.inf
        self._rows = None
        # A copy of a whole vocabulary, which the first token of one answer a prompt need not wait for.
        if len(logits) < self._batch:
            logits = np.repeat(logits, self._batch // len(logits), axis=0)
        return self._choice(logits)

    def _next_tokens(self) -> Tokens:
        """Return the best token of each row after a step, ends of sequence aside."""
        if self._rows is None:
            self._rows = self._logits.data[:, -1]
            self._flat = self._logits.data.data.cast("B").cast("f")
            self._no_choice = [row * self._width + end for row in range(self._batch) for end in self._ends]
        # Between two steps the weights have passed through the cache: what is least to look up is quickest by far.
        for place in self._no_choice:
            self._flat[place] = -math.inf
        return self._choice(self._rows)

    def phases_ns(self) -> dict[str, int]:
        """Return the parts of the last start, in ns."""
        return dict(self._phases_ns)

    def placement(self) -> Placement:
        """Return the devices that the compiled graphs name, and the step graph's executed nodes by type of device."""
        where = "+".join(sorted({executed_on(graph.model) for graph in self._graphs.values()}))
        nodes = sum(1 for _ in self._graphs[self._step_role].model.get_runtime_model().get_ops())
        return Placement(self._device, where, {where: nodes})

    def compute_precision(self) -> str:
        """Return the inference precision that the compiled graphs report."""
        hints = (graph.model.get_property("INFERENCE_PRECISION_HINT") for graph in self._graphs.values())
        return "+".join(sorted({PRECISION.get(hint.get_type_name(), hint.get_type_name()) for hint in hints}))

    def settings(self) -> dict[str, tuple[str, str]]:
        """Return the K/V cache's precision, the group of dynamic quantisation and the streams."""
        return settings_in_effect(self._asked, [graph.model.get_property for graph in self._graphs.values()])

    def threads(self) -> int:
        """Return the CPU threads of the step graph; 0 on a GPU."""
        if self._device != "cpu":
            return 0
        return int(self._graphs[self._step_role].model.get_property("INFERENCE_NUM_THREADS"))

    def attention_path(self) -> str:
        """Return "SDPA" where the engine fused attention with its K/V update, else "unfused"."""
        for op in self._graphs[self._step_role].model.get_runtime_model().get_ops():
            if _layer_type(op) == _FUSED and _STATE in {_layer_type(value.get_node()) for value in op.input_values()}:
                return "SDPA"
        return "unfused"

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load" (reading the IR) and "compile", of all graphs together."""
        graphs = self._graphs.values()
        return {"load": sum(g.load_ns for g in graphs), "compile": sum(g.compile_ns for g in graphs)}

    def close(self) -> None:
        """Free requests and graphs."""
        self._graphs.clear()


def _layer_type(op: Any) -> str:
    info = op.get_rt_info()
    found = info["layerType"].astype(str) if "layerType" in info else op.get_type_name()
    return str(found)


class DecoderOnlySession(OpenVinoSession):
    """A stateful decoder-only graph: ids, mask and positions in, logits of the last position out."""

    _step_role: Role = "model"

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the input buffers: prompt and step ids, the mask of every length, positions."""
        import openvino as ov

        super().reserve(batch, input_tokens, output_tokens)
        graph = self._graphs["model"]
        self._request = graph.request
        self._has_positions = "position_ids" in graph.names
        total = input_tokens + output_tokens
        self._positions = StepIds(batch)
        # Masks of growing length are views of one buffer: rows of ones look the same at any length.
        self._ones = np.ones(batch * total, dtype=np.int64)
        self._step_tensors = [
            ov.Tensor(self._ones[: batch * length].reshape(batch, length), shared_memory=True)
            for length in range(1, total + 1)
        ]
        names = [port.get_names() for port in graph.model.inputs]
        self._mask_index = next(i for i, found in enumerate(names) if "attention_mask" in found)
        self._has_beams = "beam_idx" in graph.names
        self._take_rows(np.arange(batch))
        self._mask: Tokens | None = None

    def _take_rows(self, rows: Tokens, *, once: bool = False) -> None:
        """Say which rows of the state the next rows go on from; ``once``: then each from its own."""
        import openvino as ov

        self._spread = once
        if self._has_beams:
            self._request.set_tensor("beam_idx", ov.Tensor(rows.astype(np.int32)))
        elif once:
            raise CannotRunError("this graph has no `beam_idx`: a prompt cannot be shared by several answers")

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Prefill the prompts ``[B, S]``; a padded batch is padded on the left."""
        import openvino as ov

        count = self._check(input_ids)
        batch, length = input_ids.shape
        self._request.reset_state()
        self._mask = None
        mask = np.ones((batch, length), dtype=np.int64) if attention_mask is None else attention_mask
        if attention_mask is not None:
            self._mask = np.repeat(self._padded(attention_mask), count, axis=0)
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        if count > 1:
            self._take_rows(np.arange(batch))
        token = self._read(input_ids, ov.Tensor(np.ascontiguousarray(mask, dtype=np.int64)), positions)
        self._length = length
        if count > 1:
            # The engine spreads the prompt's K/V over the rows itself, as it does for beams.
            self._take_rows(np.repeat(np.arange(batch), count), once=True)
        return token

    def extend(self, input_ids: Tokens) -> Tokens:
        """Read ``[B, n]`` behind the K/V that are there; the first of them is the last token given.

        Raises:
            BadInputError: no place is reserved for them, or the prompts were padded.
        """
        batch, count = input_ids.shape
        length = self._length + count
        if self._mask is not None or self._spread or batch != self._batch or length > len(self._step_tensors):
            raise BadInputError(
                f"a turn of {batch}x{count} tokens does not fit what is reserved, or prompts of one length"
            )
        self._left = self._output
        positions = np.broadcast_to(np.arange(self._length, length), (batch, count))
        token = self._read(input_ids, self._step_tensors[length - 1], positions)
        self._length = length
        return token

    def _read(self, input_ids: Tokens, mask: Any, positions: Tokens) -> Tokens:
        """Read prompts ``[B, n]`` into the state and leave the request ready for steps."""
        import openvino as ov

        self._count_token()
        request = self._request
        request.set_tensor("input_ids", ov.Tensor(np.ascontiguousarray(input_ids, dtype=np.int64)))
        request.set_tensor("attention_mask", mask)
        if self._has_positions:
            request.set_tensor("position_ids", ov.Tensor(np.ascontiguousarray(positions)))
        request.infer()
        self._positions.put(np.repeat(positions[:, -1], self._batch // len(input_ids)))
        token = self._first_tokens()
        request.set_tensor("input_ids", self._ids.tensor)
        if self._has_positions:
            request.set_tensor("position_ids", self._positions.tensor)
        return token

    def _padded(self, attention_mask: Tokens) -> Tokens:
        """Return the prompts' mask with room for every new token."""
        return np.pad(attention_mask, ((0, 0), (0, self._output)), constant_values=1)

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next."""
        self._count_token()
        self._ids.put(tokens)
        self._positions.advance()
        self._length += 1
        self._request.set_input_tensor(self._mask_index, self._step_mask())
        self._request.infer()
        if self._spread:
            self._take_rows(np.arange(self._batch))
        return self._next_tokens()

    def _step_mask(self) -> Any:
        if self._mask is None:
            return self._step_tensors[self._length - 1]
        import openvino as ov

        # Rows of unequal length: no one buffer serves every length.
        return ov.Tensor(np.ascontiguousarray(self._mask[:, : self._length]))


class EncoderDecoderSession(OpenVinoSession):
    """An encoder graph and a stateful decoder graph.

    Ours hands over the cross K/V of every layer: the decoder's inputs are the encoder's output tensors, without a
    copy. optimum-intel's hands over the encoder's states, and its decoder keeps the cross K/V it makes of them.
    """

    _step_role: Role = "decoder"

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions, engine_name: str) -> None:
        """Compile both graphs and match the encoder's outputs with the decoder's inputs."""
        super().__init__(artifact, device, options, engine_name)
        self._start_token = artifact.manifest.checkpoint.decoder_start_token_id or 0
        self._encoder, self._decoder = self._graphs["encoder"].request, self._graphs["decoder"].request
        self._ids_name = "input_ids" if "input_ids" in self._graphs["decoder"].names else "decoder_input_ids"
        self._handed: list[tuple[int, str]] = []
        for index, port in enumerate(self._graphs["encoder"].model.outputs):
            names = port.get_names()
            target = names & self._graphs["decoder"].names
            if "last_hidden_state" in names:
                target = {"encoder_hidden_states"}
            self._handed += [(index, name) for name in target]

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the input buffers."""
        import openvino as ov

        super().reserve(batch, input_tokens, output_tokens)
        self._decoder.set_tensor(self._ids_name, self._ids.tensor)
        if "beam_idx" in self._graphs["decoder"].names:
            self._decoder.set_tensor("beam_idx", ov.Tensor(np.arange(batch, dtype=np.int32)))

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Encode the prompts ``[B, N]`` and run the first decoder step; a padded batch is padded on the right."""
        import openvino as ov

        count = self._check(input_ids)
        began = perf_counter_ns()
        mask = np.ones(input_ids.shape, dtype=np.int64) if attention_mask is None else attention_mask
        ids_tensor = ov.Tensor(np.ascontiguousarray(input_ids, dtype=np.int64))
        mask_tensor = ov.Tensor(np.ascontiguousarray(mask, dtype=np.int64))
        self._encoder.set_tensor("input_ids", ids_tensor)
        self._encoder.set_tensor("attention_mask", mask_tensor)
        self._encoder.infer()
        encoded = perf_counter_ns()
        self._decoder.reset_state()
        for index, name in self._handed:
            given = self._encoder.get_output_tensor(index)
            self._decoder.set_tensor(name, ov.Tensor(np.repeat(given.data, count, axis=0)) if count > 1 else given)
        if count > 1:
            mask_tensor = ov.Tensor(np.repeat(mask_tensor.data, count, axis=0))
        self._decoder.set_tensor("encoder_attention_mask", mask_tensor)
        token = self.step(np.full(self._batch, self._start_token, dtype=np.int64))
        self._phases_ns = {"encode": encoded - began, "first_step": perf_counter_ns() - encoded}
        return token

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next."""
        self._count_token()
        self._ids.put(tokens)
        self._decoder.infer()
        return self._next_tokens()

    def reread(self, tokens: Tokens) -> Tokens:
        """Read the start token and the answer so far ``[B, n]`` into an empty state; return the next tokens."""
        import openvino as ov

        self._count_token()
        self._decoder.reset_state()
        whole = np.insert(tokens, 0, self._start_token, axis=1)
        self._decoder.set_tensor(self._ids_name, ov.Tensor(np.ascontiguousarray(whole)))
        self._decoder.infer()
        self._decoder.set_tensor(self._ids_name, self._ids.tensor)
        return self._first_tokens()
