"""One compiled OpenVINO graph with its request, and inputs of one number a row that are written in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from slmbench.backend import Tokens
from slmbench.errors import CannotRunError, last_error_line


class ReadGraph:
    """A graph as the artifact has it. It is read once, so its weights are mapped once, however often it is compiled."""

    def __init__(
        self, core: Any, path: Path, engine_name: str, properties: dict[str, Any], read: Callable[[], Any] | None = None
    ) -> None:
        """Read the IR, with a function of its own where it is not taken as the file has it.

        Raises:
            CannotRunError: OpenVINO does not take it.
        """
        self._core, self._path, self._engine_name, self._properties = core, path, engine_name, properties
        started = perf_counter_ns()
        with self._reported():
            self._model = read() if read is not None else core.read_model(path)
        self.load_ns = perf_counter_ns() - started

    def compile(self, change: Callable[[Any], None] | None = None) -> CompiledGraph:
        """Compile it, or a copy that ``change`` has altered; the change's time is part of compiling.

        Raises:
            CannotRunError: OpenVINO refuses the graph or a property.
        """
        started = perf_counter_ns()
        with self._reported():
            model = self._model
            if change is not None:
                model = model.clone()
                change(model)
            compiled = self._core.compile_model(model, self._engine_name, self._properties)
        return CompiledGraph(compiled, perf_counter_ns() - started)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, UnicodeDecodeError) as error:
            reason = last_error_line(error)
            raise CannotRunError(
                f"{self._path}: OpenVINO does not compile it for {self._engine_name}: {reason}"
            ) from error


class CompiledGraph:
    """A compiled graph with one request."""

    def __init__(self, compiled: Any, compile_ns: int) -> None:
        self.model, self.compile_ns = compiled, compile_ns
        self.request = compiled.create_infer_request()
        self.names = {name for port in compiled.inputs for name in port.get_names()}

    def input_index(self, name: str) -> int:
        """Return the place of an input among the graph's."""
        return next(i for i, port in enumerate(self.model.inputs) if name in port.get_names())

    def bind_logits(self, batch: int, vocabulary: int) -> Any:
        """Give the request a tensor ``[batch, 1, V]`` for its logits, f32, and return it.

        A graph that gives the logits of every position makes it larger; a step's are at its beginning.
        """
        import openvino as ov

        width = self.model.output(0).get_partial_shape()[2]
        columns = width.get_length() if width.is_static else vocabulary
        logits = ov.Tensor(ov.Type.f32, ov.Shape([batch, 1, columns]))
        self.request.set_output_tensor(0, logits)
        return logits


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
