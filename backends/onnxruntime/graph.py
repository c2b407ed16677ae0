"""One ONNX Runtime session with what its ports say, and binding arrays to it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import psutil
from numpy.typing import NDArray

from slmbench.errors import CannotRunError, first_error_line

CPU = "CPUExecutionProvider"


class OrtGraph:
    """One ONNX Runtime session, and what its ports say."""

    def __init__(self, path: Path, settings: Any, provider: str = CPU, options: dict[str, str] | None = None) -> None:
        import onnxruntime as ort

        ort.disable_telemetry_events()
        process = psutil.Process()
        before, began = process.num_threads(), perf_counter_ns()
        try:
            providers = [(provider, options or {})]
            self.session = ort.InferenceSession(path, settings, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions have no common class but this
            raise CannotRunError(f"{path}: ONNX Runtime does not take it: {first_error_line(error)}") from error
        self.session.disable_fallback()
        self.load_ns = perf_counter_ns() - began
        #: Threads that compute an operator: the caller's, and those of the session's pool.
        self.threads = process.num_threads() - before + 1
        self.inputs = {port.name: port for port in self.session.get_inputs()}
        self.outputs = [port.name for port in self.session.get_outputs()]
        limit = self.session.get_modelmeta().custom_metadata_map.get("slmbench.max_positions")
        self.max_positions = int(limit) if limit else None

    def nodes(self) -> Counter[str]:
        """Return the nodes by provider."""
        found: Counter[str] = Counter()
        for part in self.session.get_provider_graph_assignment_info():
            found[part.ep_name] += len(part.get_nodes())
        return found

    def operators(self) -> set[str]:
        """Return the kinds of operators in the graph."""
        parts = self.session.get_provider_graph_assignment_info()
        return {node.op_type for part in parts for node in part.get_nodes()}


def bind(binding: Any, name: str, array: NDArray[Any], *, shape: tuple[int, ...] | None = None) -> None:
    """Bind an input to an array's memory, or to the beginning of it seen in another shape."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, shape or array.shape, array.ctypes.data)


def bind_out(binding: Any, name: str, array: NDArray[Any], *, shape: tuple[int, ...] | None = None) -> None:
    """Bind an output to an array's memory, or to the beginning of it seen in another shape."""
    binding.bind_output(name, "cpu", 0, array.dtype.type, shape or array.shape, array.ctypes.data)
