"""Static graphs on ONNX Runtime: the CPU provider here, any other through a subclass."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmbench.backend import Placement, SessionOptions, Tokens
from slmbench.errors import CannotRunError, first_error_line
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import Device

from ..common.cpu_device import default_threads
from ..common.static_session import BufferPool, Ports, StaticSession

_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


def base_settings(threads: int, *, alone: bool) -> Any:
    """Return session options with our threads, quiet, and the assignment of nodes recorded.

    Each session has a thread pool of its own, whose threads spin for tens of milliseconds after a run. ``alone``: it
    is the only session of its model, and they wait for its next step. Otherwise they would spin against the model's
    other session (seen: an encoder at half its speed, its decoder's steps at 0.6 of theirs), and block instead.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not alone:
        settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def shipped_settings(threads: int | None) -> Any:
    """Return session options that ONNX Runtime chooses itself, but for a number of threads that was asked for.

    Only what it says is ours: quiet, and the assignment of nodes recorded.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    if threads is not None:
        settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return settings


def settings_in_effect(threads: int | str, sessions: Sequence[Any]) -> dict[str, tuple[str, str]]:
    """Return what :func:`base_settings` asked for and what the sessions have.

    With ``ORT_LOAD_CONFIG_FROM_MODEL=1`` a model's own settings take the place of all of ours, without a word.
    """
    import onnxruntime as ort

    reported = [session.get_session_options() for session in sessions]
    rows = {
        "intra_op_num_threads": (str(threads), {str(one.intra_op_num_threads) for one in reported}),
        "graph_optimization_level": (
            ort.GraphOptimizationLevel.ORT_ENABLE_ALL.name,
            {one.graph_optimization_level.name for one in reported},
        ),
    }
    return {name: (asked, "+".join(sorted(found))) for name, (asked, found) in rows.items()}


def strict_settings(threads: int) -> Any:
    """Return session options with which creating a session fails when a node would land on the CPU provider."""
    settings = base_settings(threads, alone=False)
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return settings


class OnnxRuntimeStaticSession(StaticSession):
    """Static graphs in ONNX Runtime sessions, every port bound once to memory that the loop reads and writes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: ArtifactSpec,
        graphs: Mapping[Role, Path],
        device: Device,
        options: SessionOptions,
    ) -> None:
        """Create the sessions of the graphs at these paths.

        Raises:
            CannotRunError: ONNX Runtime refuses a graph, or would run a part of it on another provider.
        """
        super().__init__(checkpoint, spec)
        self._device = device
        self._threads = options.threads or default_threads()
        self._pool = BufferPool()
        self._sessions: dict[Role, Any] = {}
        self._bindings: dict[Role, Any] = {}
        self._alone = len(graphs) == 1
        started = time.perf_counter_ns()
        for role, path in graphs.items():
            self._sessions[role] = self._create(path)
        self._load_ns = time.perf_counter_ns() - started
        self._bind({role: self._binding(role) for role in self._sessions})

    def _create(self, path: Path) -> Any:
        import onnxruntime as ort

        settings = self._settings()
        try:
            session = ort.InferenceSession(path, settings, providers=self._providers(), enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions have no common class but this
            raise CannotRunError(f"{path}: ONNX Runtime does not take it: {first_error_line(error)}") from error
        session.disable_fallback()
        return session

    def _providers(self) -> list[str] | None:
        return ["CPUExecutionProvider"]

    def _settings(self) -> Any:
        """Return the session options of each graph."""
        return base_settings(self._threads, alone=self._alone)

    def _binding(self, role: Role) -> dict[str, Any]:
        import onnxruntime as ort

        session = self._sessions[role]
        binding = self._bindings[role] = session.io_binding()
        memory: dict[str, Any] = {}
        held: Any
        for ports, bind in (
            (session.get_inputs(), binding.bind_ortvalue_input),
            (session.get_outputs(), binding.bind_ortvalue_output),
        ):
            for port in ports:
                shape = tuple(port.shape)
                held = self._pool.get(port.name, shape)
                if held is None:
                    array = np.zeros(shape, dtype=_DTYPES[port.type])
                    held = (array, ort.OrtValue.ortvalue_from_numpy(array))
                    self._pool.put(port.name, shape, held)
                array, value = held
                bind(port.name, value)
                memory[port.name] = array
        return memory

    def _run(self, role: Role) -> None:
        self._sessions[role].run_with_iobinding(self._bindings[role])

    def placement(self) -> Placement:
        """Return the providers that the step's nodes are assigned to."""
        nodes = self.nodes()
        others = sorted(name for name in nodes if name != "CPUExecutionProvider")
        return Placement(self._device, "+".join(others) or ("cpu" if nodes else "unknown"), nodes)

    def nodes(self) -> dict[str, int]:
        """Return the number of nodes by provider, over all graphs, as the sessions recorded it."""
        counted: Counter[str] = Counter()
        for session in self._sessions.values():
            for subgraph in session.get_provider_graph_assignment_info():
                counted[subgraph.ep_name] += len(subgraph.get_nodes())
        return dict(counted)

    def compute_precision(self) -> str:
        """Return what the graph's tensors are: the CPU provider computes in the types that are written there."""
        return "fp32"

    def settings(self) -> dict[str, tuple[str, str]]:
        """Return threads and level of optimisation, which a model may bring along and ONNX Runtime may obey."""
        return settings_in_effect(self._threads, list(self._sessions.values()))

    def threads(self) -> int:
        """Return the intra-op threads that the session has."""
        return int(self._sessions[self._step_role].get_session_options().intra_op_num_threads)

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load" in ns; ONNX Runtime does not report reading and compiling separately."""
        return {"load": self._load_ns}

    def close(self) -> None:
        """Free sessions, bindings and buffers."""
        self._bindings.clear()
        self._sessions.clear()
        self._slots.clear()
        self._pool = BufferPool()


class RecordingSession(OnnxRuntimeStaticSession):
    """A session on the CPU that remembers what its graphs were given: material for calibration."""

    _log: list[tuple[Role, dict[str, Any]]] | None = None

    def _bind(self, ports: Ports) -> None:
        self._inputs = {
            role: {port.name: ports[role][port.name] for port in session.get_inputs()}
            for role, session in self._sessions.items()
        }
        super()._bind(ports)

    def _run(self, role: Role) -> None:
        if self._log is not None:
            self._log.append((role, {name: array.copy() for name, array in self._inputs[role].items()}))
        super()._run(role)

    def record(self, prompt: Tokens, steps: int, kept: Container[int]) -> Iterator[tuple[Role, dict[str, Any]]]:
        """Generate ``steps`` tokens and yield the inputs of the prompt's graph and of the steps in ``kept``."""
        self._log = []
        token = self.start(prompt)
        yield from self._log
        for step in range(1, steps):
            self._log = [] if step in kept else None
            token = self.step(token)
            yield from self._log or ()
