"""Threads of torch and llama.cpp under OpenMP's settings: what a session tells is what really computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from rotation import in_turn

from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve

pytest.importorskip("torch", reason="needs slmbench[export]")
pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")

from slmbench.export.build import ensure_artifact

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores"),
]

#: Prints what the session tells, and the cores of those threads that computed while steps ran.
SCRIPT = """
import json, os, sys
from pathlib import Path
import numpy as np
from slmbench.backend import load_backend
from slmbench.models.artifact import read_artifact

def spent():
    found = {}
    for thread in os.listdir("/proc/self/task"):
        found[int(thread)] = int(Path("/proc/self/task", thread, "schedstat").read_text().split()[0])
    return found

backend = load_backend(sys.argv[1])
session = backend.open(read_artifact(Path(sys.argv[2])), "cpu", backend.options_type())
session.reserve(1, 256, 4)
prompt = np.arange(5, 261)[None]
session.start(prompt)
before = spent()
for _ in range(60):
    session.start(prompt)
worked = {thread: after - before.get(thread, 0) for thread, after in spent().items()}
busy = [thread for thread, ns in worked.items() if ns > 0.2 * max(worked.values())]
cores = set().union(*(os.sched_getaffinity(thread) for thread in busy))
print(json.dumps([session.threads(), min(len(busy), len(cores)), session.settings()["threads"]]))
"""


@pytest.mark.parametrize(
    ("backend", "name", "value", "threads"),
    in_turn(
        [
            ("torch", "OMP_PROC_BIND", "true", 2),
            ("torch", "OMP_PROC_BIND", "master", 1),
            ("torch", "OMP_DYNAMIC", "true", 2),
            ("llama_cpp", "OMP_PROC_BIND", "true", 2),
            ("llama_cpp", "OMP_THREAD_LIMIT", "1", 1),
            ("llama_cpp", "GOMP_CPU_AFFINITY", "0", 1),
        ],
        2,
    ),
)
@pytest.mark.slow
def test_the_threads_that_are_told_are_those_that_compute(backend: str, name: str, value: str, threads: int) -> None:
    spec = {"torch": {"format": "torch", "exporter": "none"}, "llama_cpp": {"format": "gguf", "exporter": "slmbench"}}
    chosen = ArtifactSpec.model_validate(spec[backend])
    folder = ensure_artifact(resolve("llama-tiny"), chosen, progress=lambda _: None).folder
    two = ["taskset", "-c", "0,1"] if (os.cpu_count() or 1) > 2 else []
    done = subprocess.run(
        [*two, sys.executable, "-P", "-c", SCRIPT, backend, str(folder)],
        env={**os.environ, name: value}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told, worked, (asked, effect) = json.loads(done.stdout.splitlines()[-1])
    assert (told, worked, asked) == (threads, threads, "2")
    assert effect == (f"1 ({name}={value})" if threads == 1 else "2")
