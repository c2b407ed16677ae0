"""What our loop for CUDA adds to a decode step besides the run itself: Python, positions, copying the token.

    python benchmarks/cuda_loop_overhead.py [--device gpu] [--precision fp16] [--cuda-graph] [--steps 400]

Without a GPU the same code runs on the CPU provider (``--device cpu``, the default): binding, feeding and fetching are
the same calls there, only without a bus. The goal is 60 us a token (median). A step's time is taken around
``session.step``, the run's around ``run_with_iobinding``, which waits for the device; the difference is the loop's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from time import perf_counter_ns
from typing import Any

import numpy as np
from slmbench.backends.onnxruntime.cuda_session import OnnxRuntimeOptions

from slmbench.backend import load_backend
from slmbench.export.build import ensure_artifact
from slmbench.measure.generate import quiet_collector
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve

GOAL_US = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16", "int4"], default="fp32")
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--model", action="append", help="default: llama-tiny and t5-tiny")
    given = parser.parse_args()
    worst = 0.0
    for name in given.model or ["llama-tiny", "t5-tiny"]:
        spec = ArtifactSpec(format="onnx", weight_precision=given.precision, target="cuda")
        artifact = ensure_artifact(resolve(name), spec, progress=lambda _: None)
        backend = load_backend("onnxruntime")
        compute = {"int4": "fp16"}.get(given.precision, given.precision)
        options = OnnxRuntimeOptions.model_validate(
            {"threads": 1, "compute_precision": compute, "cuda_graph": given.cuda_graph}
        )
        session: Any = backend.open(artifact, given.device, options)
        session.reserve(1, 32, given.steps)
        overhead_us, run_us = measure(session, given.steps)
        worst = max(worst, overhead_us)
        print(f"{name}: {overhead_us:.1f} us per token, on top of {run_us:.1f} us, {session.attention_path()}")
    print(f"goal {GOAL_US:.0f} us: {'reached' if worst <= GOAL_US else 'missed'} on {given.device}")
    return int(worst > GOAL_US)


def measure(session: Any, steps: int) -> tuple[float, float]:
    """Return the medians of what the loop adds to a step and of the run within it, in us."""
    graph = session._graphs[session._step_role]
    timed = Timed(graph.session)
    graph.session = timed
    prompt = np.arange(10, 42, dtype=np.int64)[None]
    added, runs = [], []
    for _ in range(3):
        with quiet_collector():
            token = session.start(prompt)
            for _ in range(steps - 1):
                began = perf_counter_ns()
                token = session.step(token)
                taken = perf_counter_ns() - began
                added.append(taken - timed.last_ns)
                runs.append(timed.last_ns)
    kept = slice(steps, None)  # the first generation warms up, and captures the CUDA graph
    return statistics.median(added[kept]) / 1e3, statistics.median(runs[kept]) / 1e3


class Timed:
    """A session of ONNX Runtime that notes how long its last run took."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.last_ns = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        """Run, and note the time."""
        began = perf_counter_ns()
        self._session.run_with_iobinding(binding, options)
        self.last_ns = perf_counter_ns() - began


if __name__ == "__main__":
    sys.exit(main())
