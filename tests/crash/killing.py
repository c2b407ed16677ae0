"""A cache and a results folder that commands are killed in, and how they are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from slmbench.records.schema import SAMPLES_NAME

#: A whole run takes longer than this nowhere, not even next to other tests on a busy machine (seen: 180 s).
TIMEOUT_S = 600


@dataclass
class Bench:
    """A cache and a results folder of its own."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "run"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SLMBENCH_CACHE": str(self.root / "cache")}
        with (self.root / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "slmbench", *arguments],
                env=environment,
                cwd=self.root,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def call(self, *arguments: str) -> int:
        process = self.start(*arguments)
        try:
            return process.wait(TIMEOUT_S)
        finally:
            # It must not still run during the next test.
            process.kill()

    def output(self) -> str:
        return (self.root / "output.txt").read_text(errors="replace")

    def samples(self) -> bytes:
        """Return the whole lines of the samples on disk."""
        path = self.folder / SAMPLES_NAME
        data = path.read_bytes() if path.exists() else b""
        return data[: data.rfind(b"\n") + 1]


def workers_of(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def strike(process: subprocess.Popen[bytes], how: str) -> None:
    """Kill host, a worker or both; or end it as a person or a system would."""
    children = workers_of(process.pid)
    if how in ("worker", "both") and children:
        random.choice(children).send_signal(signal.SIGKILL)
    if how in ("host", "both"):
        process.send_signal(signal.SIGKILL)
    elif how == "terminate":
        process.send_signal(signal.SIGTERM)
    elif how == "Ctrl-C twice":
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    process.wait(TIMEOUT_S)
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()], "a worker outlived its host"
