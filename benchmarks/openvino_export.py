"""How long our OpenVINO export takes beside optimum-cli's, and in how much memory: one folder, processes of their own.

    python benchmarks/openvino_export.py [--model smollm2-135m] [--exports 3]

Wanted: no more time than `optimum-cli export openvino`, peak memory at most 2.5 times the checkpoint. Ours also makes
the golden record and hashes what it wrote. The order alternates; on a shared machine read the smallest. POSIX.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slmbench.artifact import ArtifactSpec
from slmbench.checkpoint import resolve
from slmbench.export.build import ensure_artifact

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def measured(command: list[str], **environment: str) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB."""
    begin = time.perf_counter()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **OFFLINE, **environment}, stdout=quiet, stderr=quiet)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - begin, usage.ru_maxrss * unit / 1e6


def ours(source: Path, work: Path) -> tuple[float, float]:
    """Export with slmbench into a cache of its own."""
    command = [sys.executable, "-m", "slmbench", "export", str(source), "--format", "openvino"]
    return measured([*command, "--exporter", "slmbench"], SLMBENCH_CACHE=str(work / "cache"))


def theirs(source: Path, work: Path) -> tuple[float, float]:
    """Export with optimum-intel's command."""
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "-m", str(source)]
    command += ["--task", "text-generation-with-past", "--disable-convert-tokenizer", "--weight-format", "fp32"]
    return measured([*command, str(work / "theirs")])


def main() -> None:
    """Export by turns and print each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="a decoder-only checkpoint of the catalog")
    parser.add_argument("--exports", type=int, default=3)
    options = parser.parse_args()
    spec = ArtifactSpec(format="torch", exporter="none")
    source = ensure_artifact(resolve(options.model), spec, progress=print).folder
    megabytes = sum(path.stat().st_size for path in source.glob("*.safetensors")) / 1e6
    print(f"| exporter | s | peak MB | of the checkpoint's {megabytes:.0f} MB |\n| :--- | ---: | ---: | ---: |")
    sides = {"slmbench export": ours, "optimum-cli": theirs}
    best: dict[str, float] = {}
    for index in range(options.exports):
        for name in list(sides)[:: 1 if index % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as work:
                seconds, peak = sides[name](source, Path(work))
            best[name] = min(seconds, best.get(name, seconds))
            print(f"| {name} | {seconds:.1f} | {peak:.0f} | {peak / megabytes:.2f} |", flush=True)
    print(f"\nshortest: {best['slmbench export'] / best['optimum-cli']:.2f} of optimum-cli's time")


if __name__ == "__main__":
    main()
