"""What sessions over dynamic OpenVINO graphs share, on the CPU or a GPU: our own loop, nothing allocated in it.

Inputs live in buffers of full size made by ``reserve``; an infer request is given views of them, so that a step
writes a few numbers and calls ``infer``. The state of the graph holds the self-attention K/V. On a CPU steps run a
graph of their own (see :mod:`.step_graph`), unless the path asked for is plain SDPA.
"""

from __future__ import annotations

import platform
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Pixels, Placement, SessionOptions, Tokens
from slmbench.models.artifact import Artifact, Role
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import Device

from ..common.given_back import give_back
from ..common.held_pictures import FEATURES, POSITIONS
from ..common.next_token import StepLogits, TokenChooser
from ..common.reserved import Reserved
from .compiled_graph import CompiledGraph, ReadGraph, StepIds
from .joined_graph import readers
from .options import PRECISION, device_properties, settings_in_effect, steps_apart
from .static_session import executed_on
from .step_graph import for_one_token
from .vision_part import hold_pictures

#: The operator that OpenVINO's CPU plugin makes of attention; where it reads a state, it updates it as well.
_FUSED, _STATE = "ScaledDotProductAttention", "MemoryInput"


class OpenVinoSession:
    """What sessions of both families share. Not thread-safe."""

    #: The artifact's graph that a step runs, or that the step's own graph is made of.
    _stepped: Role

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions, engine_name: str) -> None:
        """Compile the artifact's graphs.

        Raises:
            CannotRunError: OpenVINO refuses a graph or a property.
        """
        silence_telemetry()
        import openvino as ov

        self._device, self._artifact = device, artifact
        checkpoint = artifact.manifest.checkpoint
        self._vocabulary = checkpoint.geometry.vocab_size
        self._reserved = Reserved(checkpoint, pictures=artifact.manifest.spec.pictures)
        core, self._asked = ov.Core(), device_properties(options, engine_name)
        self._read_graphs: dict[Role, ReadGraph] = {
            role: ReadGraph(core, artifact.graph(role), engine_name, self._asked, read)
            for role, read in readers(core, artifact).items()
        }
        exact = options.settings == "fair" and options.compute_precision == "fp32"
        self._plain_products = exact and platform.machine() in ("x86_64", "AMD64")
        # OpenVINO's CPU plugin gives up on states of fixed size in a graph whose rows are fixed.
        self._apart = steps_apart(options, device) and "recurrent" not in artifact.manifest.attention
        self._step_role: Role = "decode" if self._apart else self._stepped
        self._graphs: dict[Role, CompiledGraph] = {role: self._read_graphs[role].compile() for role in self._whole()}
        self._step_rows = 0
        self._compile_step(1)
        self._phases_ns: dict[str, int] = {}
        self._choice = TokenChooser()
        self._pictures = hold_pictures(checkpoint, self._graphs.get("vision"))

    def take_pictures(self, pixels: Pixels) -> None:
        """Hold the pictures of the next start and of those after it.

        Raises:
            BadInputError: the artifact takes no pictures, or others than these.
        """
        self._pictures.take(pixels)

    def _look(self, request: Any, input_ids: Tokens) -> None:
        """Give the request that reads prompts the features that go with this one."""
        features = self._pictures.features_for(input_ids)
        if features is not None:
            request.set_tensor(FEATURES, features)
        if self._pictures.positions is not None:
            for reader in {request, self._graphs[self._step_role].request}:
                reader.set_tensor(POSITIONS, self._pictures.positions)

    def free_memory(self, input_tokens: int) -> None:
        """Give back what compiling has left: the file stays mapped, though compiled graphs have their own weights."""
        give_back(self._artifact.folder)

    def _whole(self) -> list[Role]:
        """Return the artifact's graphs that are compiled as they are."""
        return list(self._read_graphs)

    def _compile_step(self, rows: int) -> None:
        """Have a step graph for so many rows, if steps have one of their own."""
        if not self._apart or rows == self._step_rows:
            return

        self._graphs.pop("decode", None)
        change = partial(self._change_for_steps, rows=rows)
        self._graphs["decode"] = self._read_graphs[self._stepped].compile(change)
        self._step_rows = rows

    def _change_for_steps(self, model: Any, rows: int) -> None:
        """Make of a copy of the artifact's graph the one that steps run."""
        for_one_token(model, rows, plain_products=self._plain_products)

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
        """Make buffers for the shape; a smaller prompt may come, a larger one is refused."""
        self._reserved.take(batch, input_tokens, output_tokens)
        self._compile_step(batch)
        self._ids = StepIds(batch)
        # Logits are written here, where they are looked at without asking for them at every step.
        self._logits = self._graphs[self._step_role].bind_logits(batch, self._vocabulary)
        self._step_logits: StepLogits | None = None

    def _first_tokens(self, tensor: Any) -> Tokens:
        """Return the best token of each row after a prompt, ends of sequence aside; its logits are in ``tensor``."""
        logits = tensor.data[:, -1]
        logits[:, self._reserved.end_tokens] = -np.inf
        self._step_logits = None
        # A copy of a whole vocabulary, which the first token of one answer a prompt need not wait for.
        if len(logits) < self._reserved.rows:
            logits = np.repeat(logits, self._reserved.rows // len(logits), axis=0)
        return self._choice(logits)

    def _next_tokens(self) -> Tokens:
        """Return the best token of each row after a step, ends of sequence aside."""
        if self._step_logits is None:
            self._step_logits = StepLogits(self._logits.data, self._reserved.end_tokens)
        return self._choice(self._step_logits.without_ends())

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
        """Return "SDPA" where the engine fused attention with its K/V update, else "unfused".

        With "+step" where steps run a graph of their own.
        """
        return f"{self._attention()}+step" if self._apart else self._attention()

    def _attention(self) -> str:
        for op in self._graphs[self._step_role].model.get_runtime_model().get_ops():
            if _layer_type(op) == _FUSED and _STATE in {_layer_type(value.get_node()) for value in op.input_values()}:
                return "SDPA"
        return "unfused"

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load" (reading the IR) and "compile", of all graphs together."""
        return {
            "load": sum(graph.load_ns for graph in self._read_graphs.values()),
            "compile": sum(graph.compile_ns for graph in self._graphs.values()),
        }

    def close(self) -> None:
        """Free requests and graphs."""
        self._graphs.clear()
        self._read_graphs.clear()


def _layer_type(op: Any) -> str:
    info = op.get_rt_info()
    found = info["layerType"].astype(str) if "layerType" in info else op.get_type_name()
    return str(found)
