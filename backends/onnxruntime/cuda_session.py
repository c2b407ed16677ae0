"""Sessions over graphs for CUDA (target ``cuda``): K/V, logits and the choice of the token stay on the device.

One integer per sequence comes back at every step, after the device has finished; the same memory is the next step's
input, so nothing goes the other way unless another token is fed than the one chosen. What gives a step its place is
read from tables that ``reserve`` puts on the device: a step binds another row of them, and copies nothing. In a CUDA
graph, which holds addresses, the few numbers are written in place instead.

The same code runs on the CPU provider: these graphs can be opened on ``cpu``, where tests prove them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Placement, SessionOptions, Tokens
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, Role
from slmbench.terms import Device

from .cuda import PROVIDER, load_libraries
from .graph import CPU, OrtGraph
from .session import OnnxRuntimeSession
from .static_session import strict_settings

#: What a graph's types are bound as: zeros of NumPy's type, and the element type that ONNX Runtime wants to hear.
_TYPES: dict[str, tuple[Any, Any]] = {
    "tensor(float)": (np.float32, np.float32),
    "tensor(float16)": (np.float16, np.float16),
    "tensor(bfloat16)": (np.uint16, 16),
}
_DEVICES = {PROVIDER: "gpu", CPU: "cpu"}
#: Lengths of K/V are rounded up to this: the fastest attention kernels want their masks aligned.
_ALIGNED = 8


class OnnxRuntimeOptions(SessionOptions):
    """Options of the ONNX Runtime backend."""

    #: Whether decode steps run as a captured CUDA graph (gpu only).
    cuda_graph: bool = False


@dataclass(frozen=True)
class ProviderMemory:
    """A provider, and what ONNX Runtime calls its memory."""

    provider: str
    kind: str

    def put(self, array: NDArray[Any]) -> Any:
        """Return a copy of the array in that memory."""
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.kind, 0)


PLACES: dict[Device, ProviderMemory] = {"gpu": ProviderMemory(PROVIDER, "cuda"), "cpu": ProviderMemory(CPU, "cpu")}


class _Inputs:
    """What gives a graph its place in the sequence: the inputs that ``slmbench/export/onnx/cuda.py`` describes."""

    def __init__(self, place: ProviderMemory, names: set[str], batch: int, length: int) -> None:
        self._place, self._names, self._batch, self._length = place, names, batch, length
        self._slots = place.put(np.arange(length, dtype=np.int64))
        self._last = place.put(np.repeat(np.arange(length, dtype=np.int32), batch))
        self._total = np.arange(length + 1, dtype=np.int32)
        self._rows = place.put(np.stack([self._rows_of(first, 1) for first in range(length)]))
        self._prompt_rows: dict[int, Any] = {}
        self._fixed: dict[str, Any] = {}

    def _rows_of(self, first: int, count: int) -> Tokens:
        rows = np.empty((self._batch, count, 2), np.int64)
        rows[..., 0] = np.arange(self._batch)[:, None]
        rows[..., 1] = np.arange(first, first + count)
        return rows

    def bind_lasting(self, binding: Any) -> None:
        """Bind what is the same at every step."""
        if "slots" in self._names:
            self._bind(binding, "slots", np.int64, (self._length,), self._slots.data_ptr())

    def bind(self, binding: Any, first: int, count: int) -> None:
        """Bind the inputs of ``count`` tokens of which the first is at place ``first``; a prompt's begin at 0."""
        slots, end, batch = self._slots.data_ptr() + 8 * first, first + count, self._batch
        for name in self._names:
            if name == "position":
                self._bind(binding, name, np.int64, (1,), slots)
            elif name == "positions":
                self._bind(binding, name, np.int64, (count,), slots)
            elif name == "last":
                self._bind(binding, name, np.int32, (batch,), self._last.data_ptr() + 4 * batch * (end - 1))
            elif name == "total":
                binding.bind_input(name, "cpu", 0, np.int32, (), self._total.ctypes.data + 4 * end)
            elif name == "rows" and count == 1:
                self._bind(binding, name, np.int64, (batch, 1, 2), self._rows.data_ptr() + 16 * batch * first)
            elif name == "rows":
                if count not in self._prompt_rows:
                    self._prompt_rows[count] = self._place.put(self._rows_of(0, count))
                binding.bind_ortvalue_input(name, self._prompt_rows[count])

    def bind_fixed(self, binding: Any) -> None:
        """Bind memory that stays, for :meth:`write`: a captured graph reads the same addresses for ever.

        ``total`` is the full length: attention goes by ``last``, and a captured graph could not read another.
        """
        self.bind(binding, 0, 1)
        for name, shape, kind in (
            ("position", (1,), np.int64),
            ("positions", (1,), np.int64),
            ("last", (self._batch,), np.int32),
            ("rows", (self._batch, 1, 2), np.int64),
        ):
            if name in self._names:
                self._fixed[name] = self._place.put(np.zeros(shape, kind))
                binding.bind_ortvalue_input(name, self._fixed[name])
        if "total" in self._names:
            binding.bind_input("total", "cpu", 0, np.int32, (), self._total.ctypes.data + 4 * self._length)

    def write(self, first: int) -> None:
        """Write the place of the one token of a step into the memory that :meth:`bind_fixed` bound."""
        for name, value in self._fixed.items():
            if name == "rows":
                value.update_inplace(self._rows_of(first, 1))
            elif name == "last":
                value.update_inplace(np.full(self._batch, first, np.int32))
            else:
                value.update_inplace(np.array([first], np.int64))

    def _bind(self, binding: Any, name: str, kind: Any, shape: tuple[int, ...], address: int) -> None:
        binding.bind_input(name, self._place.kind, 0, kind, shape, address)


class CudaSession(OnnxRuntimeSession):
    """What sessions of both families share. Not thread-safe."""

    #: Tokens are chosen on the device, and nothing else comes to the host: abilities of the class above are taken away.
    logits = None  # type: ignore[assignment]  # no method: isinstance with the ability is then false
    margins = None  # type: ignore[assignment]  # no method: isinstance with the ability is then false
    draw = None  # type: ignore[assignment]  # no method: isinstance with the ability is then false

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Create a session for each graph, strictly on the device.

        Raises:
            CannotRunError: ONNX Runtime refuses a graph, or would run a part of it on the CPU.
        """
        self._place = PLACES[device]
        self._captures = OnnxRuntimeOptions.of(options).cuda_graph
        self._reserves = 0
        super().__init__(artifact, device, options)

    def _open(self, role: Role, artifact: Artifact) -> OrtGraph:
        if self._place.provider == CPU:
            return super()._open(role, artifact)
        load_libraries()
        # TF32 products are the default, and no fp32.
        options = {"device_id": "0", "use_tf32": "0"}
        if self._captures and role == self._step_role:
            options["enable_cuda_graph"] = "1"
        graph = OrtGraph(artifact.graph(role), strict_settings(self._threads), self._place.provider, options)
        if self._place.provider not in graph.session.get_providers():
            found = ", ".join(graph.session.get_providers())
            raise CannotRunError(f"{artifact.graph(role)}: the session has only {found}, not {self._place.provider}")
        return graph

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Put K/V, the token and the tables of places on the device."""
        super().reserve(batch, input_tokens, output_tokens)
        self._reserves += 1
        graph = self._graphs[self._step_role]
        wanted = output_tokens + (input_tokens if self._step_role == "model" else 0)
        #: The place of the next token fed.
        self._at = 0
        length = -(-wanted // _ALIGNED) * _ALIGNED
        self._inputs = _Inputs(self._place, set(graph.inputs), batch, length)
        self._token = self._place.put(np.zeros((batch, 1), np.int64))
        self._chosen: list[int] = []
        self._held: list[Any] = []
        self._step = graph.session.io_binding()
        self._bindings = [self._step]
        self._step.bind_ortvalue_input("input_ids", self._token)
        if self._step_role == "model":
            self._bindings.append(graph.session.io_binding())
        for name, port in graph.inputs.items():
            if name.startswith("past_key_values."):
                shape = tuple({"batch": batch, "past": length}.get(size, size) for size in port.shape)
                self._bind_cache(name, port.type, shape)
        for binding in self._bindings:
            binding.bind_ortvalue_output("token", self._token)
            self._inputs.bind_lasting(binding)
        if self._captures:
            self._inputs.bind_fixed(self._step)
        self._prompts: dict[int, Any] = {}
        self._put_ids(np.zeros((batch, input_tokens), np.int64))
        self._prompt_options = self._options_of_run(-1)
        # Buffers are others after each reserve, so that a graph captured before must not be replayed.
        self._step_options = self._options_of_run(self._reserves)

    def _bind_cache(self, name: str, kind: str, shape: tuple[int, ...]) -> None:
        zeros, element = _TYPES[kind]
        value = self._place.put(np.zeros(shape, zeros))
        self._held.append(value)
        address, there = value.data_ptr(), (self._place.kind, 0, element, shape)
        for binding in self._bindings:
            binding.bind_input(name, *there, address)
            binding.bind_output(name.replace("past_key_values.", "present."), *there, address)

    def _options_of_run(self, graph_id: int) -> Any:
        """Return the options of a run that is captured or replayed as the CUDA graph of that number (-1: of none)."""
        import onnxruntime as ort

        options = ort.RunOptions()
        if self._captures:
            options.add_run_config_entry("gpu_graph_id", str(graph_id))
        return options

    def _fetch(self, binding: Any) -> Tokens:
        """Wait for the device, and return the chosen tokens ``[B]``: all that comes to the host."""
        binding.synchronize_outputs()
        tokens: Tokens = self._token.numpy()[:, 0].copy()
        self._chosen = tokens.tolist()
        return tokens

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: no place is reserved for another token.
        """
        at = self._at
        self._reserved.token()
        if tokens.tolist() != self._chosen:
            self._token.update_inplace(np.ascontiguousarray(tokens, np.int64)[:, None])
        if self._captures:
            self._inputs.write(at)
        else:
            self._inputs.bind(self._step, at, 1)
        self._graphs[self._step_role].session.run_with_iobinding(self._step, self._step_options)
        self._at = at + 1
        return self._fetch(self._step)

    def _check_prompts(self, input_ids: Tokens, attention_mask: Tokens | None) -> None:
        """Refuse a shape that is not reserved, and a padded batch."""
        self._reserved.start(input_ids)
        if attention_mask is not None and not attention_mask.all():
            raise CannotRunError("graphs for CUDA take no padding: prompts of one batch must be equally long")

    def _put_ids(self, input_ids: Tokens) -> Any:
        """Return the prompts' ids on the device, in memory kept for prompts of that length."""
        length = input_ids.shape[1]
        if length not in self._prompts:
            self._prompts[length] = self._place.put(np.zeros(input_ids.shape, np.int64))
        self._prompts[length].update_inplace(np.ascontiguousarray(input_ids, np.int64))
        return self._prompts[length]

    def placement(self) -> Placement:
        """Return the providers that nodes are assigned to, as the sessions recorded it."""
        nodes: Counter[str] = sum((graph.nodes() for graph in self._graphs.values()), Counter())
        where = sorted({_DEVICES.get(name, name) for name in nodes})
        return Placement(self._device, "+".join(where), dict(nodes))

    def compute_precision(self) -> str:
        """Return the type of the K/V, which is that of everything; TF32 where it is not switched off."""
        if self._place.provider == CPU:
            return super().compute_precision()
        graph = self._graphs[self._step_role]
        kinds = {port.type for name, port in graph.inputs.items() if "key" in name}
        named = {"tensor(float)": "fp32", "tensor(float16)": "fp16", "tensor(bfloat16)": "bf16"}
        found = "+".join(sorted(named.get(kind, kind) for kind in kinds))
        set_to = graph.session.get_provider_options()[self._place.provider].get("use_tf32", "1")
        return "tf32" if found == "fp32" and set_to != "0" else found

    def threads(self) -> int:
        """Return the CPU threads of the session; 0 on a GPU."""
        return super().threads() if self._place.provider == CPU else 0

    def attention_path(self) -> str:
        """Return the operator of self-attention, and whether steps are a CUDA graph."""
        fused = "GroupQueryAttention" in self._graphs[self._step_role].operators()
        path = "GroupQueryAttention" if fused else "MultiHeadAttention"
        return f"{path}, CUDA graph" if self._captures else path


class CudaDecoderOnlySession(CudaSession):
    """One graph for the prompt and for steps."""

    _step_role: Role = "model"

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make everything on the device."""
        super().reserve(batch, input_tokens, output_tokens)
        self._prompt = self._bindings[1]

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Prefill the prompts ``[B, S]``.

        Raises:
            BadInputError: a shape beyond what is reserved.
            CannotRunError: a padded batch.
        """
        self._check_prompts(input_ids, attention_mask)
        self._reserved.token()
        self._at = input_ids.shape[1]
        self._prompt.bind_ortvalue_input("input_ids", self._put_ids(input_ids))
        self._inputs.bind(self._prompt, 0, self._at)
        self._graphs["model"].session.run_with_iobinding(self._prompt, self._prompt_options)
        return self._fetch(self._prompt)


class CudaEncoderDecoderSession(CudaSession):
    """An encoder graph that writes the cross K/V where the decoder graph reads them."""

    _step_role: Role = "decoder"

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make everything on the device, the cross K/V of full length among it."""
        super().reserve(batch, input_tokens, output_tokens)
        encoder, decoder, sizes = self._graphs["encoder"], self._graphs["decoder"], self._geometry
        count = batch * sizes.kv_heads * input_tokens * sizes.head_dim
        self._cross = {
            name: (self._place.put(np.zeros(count, _TYPES[decoder.inputs[name].type][0])), decoder.inputs[name].type)
            for name in encoder.outputs
        }
        self._positions = self._place.put(np.arange(input_tokens, dtype=np.int64))
        self._prompt = encoder.session.io_binding()
        self._encoded = 0

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Encode the prompts ``[B, N]`` and run the first decoder step.

        Raises:
            BadInputError: a shape beyond what is reserved.
            CannotRunError: a padded batch.
        """
        self._check_prompts(input_ids, attention_mask)
        began = perf_counter_ns()
        batch, length = input_ids.shape
        self._prompt.bind_ortvalue_input("input_ids", self._put_ids(input_ids))
        if length != self._encoded:
            self._bind_cross(length)
        self._graphs["encoder"].session.run_with_iobinding(self._prompt, self._prompt_options)
        self._prompt.synchronize_outputs()
        encoded = perf_counter_ns()
        self._at = 0
        token = self.step(np.full(batch, self._start_token, dtype=np.int64))
        self._phases_ns = {"encode": encoded - began, "first_step": perf_counter_ns() - encoded}
        return token

    def _bind_cross(self, length: int) -> None:
        shape = (self._reserved.rows, self._geometry.kv_heads, length, self._geometry.head_dim)
        for name, (value, kind) in self._cross.items():
            there = (self._place.kind, 0, _TYPES[kind][1], shape, value.data_ptr())
            self._prompt.bind_output(name, *there)
            self._step.bind_input(name, *there)
        if "positions" in self._graphs["encoder"].inputs:
            self._prompt.bind_input("positions", self._place.kind, 0, np.int64, (length,), self._positions.data_ptr())
        # A captured graph holds the shapes too: each length has its own.
        self._step_options = self._options_of_run(self._reserves * 2**20 + length)
        self._encoded = length


def open_session(
    artifact: Artifact, device: Device, options: SessionOptions
) -> CudaDecoderOnlySession | CudaEncoderDecoderSession:
    """Open graphs made for CUDA on the GPU, or on the CPU to test them.

    Raises:
        CannotRunError: a node would not run on the device.
    """
    if "encoder" in artifact.manifest.graphs:
        return CudaEncoderDecoderSession(artifact, device, options)
    return CudaDecoderOnlySession(artifact, device, options)
