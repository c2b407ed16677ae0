"""An engine that dies of a signal: the run names the signal, the engine's last words, and what to try."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from known_limits import keep_limits_like

pytest.importorskip("torch", reason="needs slmbench[export]")

PLUGIN = """
import os, signal
from slmbench.backends.torch.backend import TorchBackend

class Dying(TorchBackend):
    name = engine = "dying"

    def open(self, artifact, device, options):
        if options.threads == 1:
            os.write(2, b"repacking the weights\\n\\n")
            os.kill(os.getpid(), signal.SIGILL)
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("threads", "words"),
    [
        (
            1,
            "the worker died of SIGILL (an instruction that this CPU or system does not permit); try: reinstall the "
            "engine on this machine, so that it fits its CPU; with llama.cpp also --option repack=false; the last line "
            "of its log: repacking the weights",
        ),
        (2, "the worker died of SIGSEGV (a fault in the engine's memory); try: another version of the engine"),
    ],
)
def test_a_signal_is_named_with_what_to_try(tmp_path: Path, shared_cache: Path, threads: int, words: str) -> None:
    keep_limits_like("dying", "torch", shared_cache)
    site = tmp_path / "site"
    (site / "dying-1.0.dist-info").mkdir(parents=True)
    (site / "dying.py").write_text(PLUGIN)
    (site / "dying-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: dying\nVersion: 1.0\n")
    (site / "dying-1.0.dist-info" / "entry_points.txt").write_text("[slmbench.backends]\ndying = dying:Dying\n")
    workload = ["--input-tokens", "8", "--output-tokens", "4", "--repeat", "1", "--threads", str(threads)]
    command = [sys.executable, "-m", "slmbench", "run", "--model", "llama-tiny", "--backend", "dying"]
    done = subprocess.run(
        [*command, *workload, "--out", str(tmp_path / "results")],
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "600"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 5, done.stdout + done.stderr
    assert words in " ".join((done.stdout + done.stderr).split())
    (samples,) = (tmp_path / "results").rglob("samples.jsonl")
    assert words in samples.read_text()
