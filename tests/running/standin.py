"""A stand-in backend with known times and faults on demand, registered like any third party's.

It gives the tokens of ``next_token``, so that its golden record is known too.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slmbench.backend import DeviceStatus, Placement, Session, SessionOptions, Tokens
from slmbench.errors import BadInputError, CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import Device, Precision

VOCAB = 1000


def next_token(token: int) -> int:
    """Return the stand-in's token after ``token``; never a special one (0, 1, 2)."""
    return 3 + (token * 7 + 11) % (VOCAB - 3)


class StandInOptions(SessionOptions):
    ttft_ms: float = 2.0
    step_ms: float = 1.0
    #: What goes wrong, and in which generation (0 is the first inference); -1: while opening.
    fault: str = ""
    fault_at: int = 0
    #: A file that the fault needs to be absent and leaves behind: only the first worker to get there fails.
    once: str = ""
    executed_on: str = "cpu"
    computes_in: str = ""
    wrong_tokens: int = 0
    memory_mib: int = 0
    #: Prompt and answer together, of what fits; 0: everything does.
    most_tokens: int = 0
    #: How much slower a load may be than another, as a share: drawn again by every worker.
    lottery: float = 0.0


class StandInBackend:
    name = "standin"
    engine = "standin"
    distributions = ("numpy",)
    options_type = StandInOptions
    attention_paths: tuple[str, ...] = ()

    def devices(self) -> Sequence[DeviceStatus]:
        return [DeviceStatus("cpu", "CPU", True, "stand-in")]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        return [ArtifactSpec(format="torch", exporter="none", weight_precision=precision)]

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        return None

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session:
        assert isinstance(options, StandInOptions)
        os.write(1, b"chatter on fd 1\n")
        os.write(2, b"chatter on fd 2\n")
        print("chatter of Python")
        return StandInSession(device, options)


class StandInSession:
    def __init__(self, device: Device, options: StandInOptions) -> None:
        self.device = device
        self.options = options
        self.generations = -1
        self.reserved = (0, 0, 0)
        self.first = 0
        self.ttft_ms = options.ttft_ms * (1 + options.lottery * random.Random(os.getpid()).random())
        self.ballast = np.ones(options.memory_mib << 20, np.uint8)
        self.maybe_fail()

    def maybe_fail(self) -> None:
        if self.options.fault and self.generations == self.options.fault_at:
            if self.options.once and Path(self.options.once).exists():
                return
            if self.options.once:
                Path(self.options.once).touch()
            fail(self.options.fault)

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        most = self.options.most_tokens
        if most and input_tokens + output_tokens > most:
            raise BadInputError(f"{input_tokens} + {output_tokens} tokens are more than {most}")
        self.reserved = (batch, input_tokens, output_tokens)

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        self.generations += 1
        batch, length = input_ids.shape
        if batch > self.reserved[0] or length > self.reserved[1]:
            raise CannotRunError(f"{input_ids.shape} is beyond what was reserved: {self.reserved}")
        self.maybe_fail()
        time.sleep(self.ttft_ms / 1e3)
        self.first = time.perf_counter_ns()
        last = input_ids[:, -1]
        return self.answer(last)

    def step(self, tokens: Tokens) -> Tokens:
        time.sleep(self.options.step_ms / 1e3)
        return self.answer(tokens)

    def answer(self, tokens: Tokens) -> Tokens:
        if self.options.fault == "eos" and self.generations == self.options.fault_at:
            return np.ones(len(tokens), np.int64)
        return np.array([next_token(int(t)) + self.options.wrong_tokens for t in tokens], np.int64)

    def phases_ns(self) -> dict[str, int]:
        return {"first_step": int(self.options.ttft_ms * 1e6)}

    def placement(self) -> Placement:
        return Placement(self.device, self.options.executed_on, {"CPU": 3})

    def compute_precision(self) -> str:
        return self.options.computes_in or self.options.compute_precision

    def threads(self) -> int:
        return 1

    def attention_path(self) -> str:
        return "none"

    def load_phases_ns(self) -> dict[str, int]:
        return {"load": 5, "compile": 7}

    def close(self) -> None:
        print("closed")


def fail(fault: str) -> None:
    """Do what goes wrong in engines."""
    if fault == "segfault":
        ctypes.string_at(0)
    elif fault == "sigfpe":
        os.kill(os.getpid(), signal.SIGFPE)
    elif fault == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        time.sleep(600)
    elif fault == "exit":
        os._exit(3)
    elif fault == "raise":
        raise RuntimeError("the engine gave up\nand says more on a second line")
    elif fault == "cannot":
        raise CannotRunError("no driver; install one")
    elif fault == "memory":
        import resource

        import psutil

        limit = psutil.Process().memory_info().vms + (256 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        hoard = []
        while True:
            hoard.append(bytearray(64 << 20))
