"""What judging quality adds to the memory of a worker: its largest private memory, less the weights, on each engine.

    python benchmarks/quality_memory.py MODEL [--backends torch,onnxruntime,...] [--precision fp32] [--text FILE]

MODEL is a folder with a trained checkpoint and its tokenizer. For each engine a worker opens and proves the model, as
every load does, and then judges the text window by window. Printed are the bytes of the weights, the largest unique set
until the first window (loading, proof), and the largest from then on. Wanted: at most 500 MB above the weights while it
judges, and what quality itself adds to an opened model. Figures are in docs/quality.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

import slmbench
from slmbench.errors import SlmbenchError
from slmbench.measure.memory import MemoryPoller
from slmbench.running import quality as quality_pass
from slmbench.running.estimate import weight_bytes_of
from slmbench.running.load import start_worker
from slmbench.running.settings import PlannedCase
from slmbench.running.worker_process import Worker
from slmbench.worker import protocol as p

ENGINES = ("torch", "onnxruntime", "openvino", "llama_cpp", "ctranslate2")
MIB = 2**20
#: Looking is not free: the system counts every page of the worker.
INTERVAL_S = 0.25


class Watch:
    """Follows one worker: until its first window, and from there on. Unique sets, in bytes."""

    def __init__(self) -> None:
        self.weights = self.opening = self.held = 0
        #: The largest while each window was judged.
        self.windows: list[int] = []
        self.seconds = 0.0

    def start(self, planned: PlannedCase, folder: Path) -> Worker:
        """Start the worker and look at its memory at every request."""
        self.weights = weight_bytes(planned)
        worker = start_worker(planned, folder)
        ask = worker.ask

        def asked(request: p.Request, expected: Any, timeout_s: float) -> Any:
            began = time.perf_counter()
            judges = isinstance(request, p.JudgeWindow)
            if judges and not self.windows:
                self.held = psutil.Process(worker.pid).memory_full_info().uss
            with MemoryPoller(worker.pid, interval_s=INTERVAL_S) as poller:
                reply = ask(request, expected, timeout_s)
            peak = poller.peak_uss_bytes or 0
            if judges:
                self.windows.append(peak)
                self.seconds += time.perf_counter() - began
            else:
                self.opening = max(self.opening, peak)
            return reply

        worker.ask = asked  # type: ignore[method-assign]  # what is asked stays as it is
        return worker


@contextmanager
def watched() -> Iterator[Watch]:
    """Follow the worker of the quality that is measured inside."""
    watch = Watch()
    with patch.object(quality_pass, "start_worker", watch.start):
        yield watch


def weight_bytes(planned: PlannedCase) -> int:
    """Return the bytes of the model's weights in the precision that was asked."""
    checkpoint = planned.checkpoint
    return round(checkpoint.parameter_count * weight_bytes_of(checkpoint, planned.case.weight_precision))


def main() -> None:
    """Judge on each engine and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--backends", default=",".join(ENGINES))
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--text", default=())
    asked = parser.parse_args()
    for backend in asked.backends.split(","):
        try:
            with watched() as watch:
                found = slmbench.quality(asked.model, text=asked.text, backend=backend, precision=asked.precision)
        except SlmbenchError as error:
            print(f"{backend}: {error}", flush=True)
            continue
        judging = max(watch.windows)
        print(
            f"{backend} {asked.precision}: weights {watch.weights / MIB:.0f} MiB; opening {watch.opening / MIB:.0f}, "
            f"then {watch.held / MIB:.0f}; judging {found.tokens} tokens {judging / MIB:.0f}: "
            f"{(judging - watch.weights) / 1e6:.0f} MB above the weights, {(judging - watch.held) / 1e6:.0f} MB above "
            f"what was held before; {watch.seconds:.0f} s",
            flush=True,
        )
    print(f"the host held {psutil.Process().memory_full_info().uss / MIB:.0f} MiB at the end")


if __name__ == "__main__":
    main()
