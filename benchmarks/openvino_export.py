"""How long our OpenVINO export takes compared to optimum-cli's, and how much memory: one folder, separate processes.

    python benchmarks/openvino_export.py [--model smollm2-135m] [--exports 3]

Wanted: no more time than `optimum-cli export openvino`, memory at most 2.5 times the checkpoint. Ours also makes the
golden record and hashes what it wrote. The order alternates; on a shared machine read the smallest. POSIX.

Two columns of memory: *resident* counts the mapped pages of the checkpoint and of libraries as well, which the system
takes back whenever it needs them; *anonymous* is what must be there. The proof that only the second is needed is a
hard limit (root, and cgroup v1's memory controller):

    python benchmarks/openvino_export.py --limit 2.5
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from slmbench.export.build import ensure_artifact
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


_CGROUP = Path("/sys/fs/cgroup/memory")


class Cost(NamedTuple):
    """What one command took."""

    seconds: float
    resident_mb: float
    anonymous_mb: float


@contextlib.contextmanager
def memory_limit(limit_bytes: int) -> Iterator[Path | None]:
    """Yield a control group of that limit, None for no limit. Its page cache counts as well; nothing may be swapped."""
    if not limit_bytes:
        yield None
        return
    group = _CGROUP / f"slmbench-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        (group / "memory.swappiness").write_text("0")
    except OSError as error:
        raise SystemExit(f"no memory limit can be set under {_CGROUP}: {error}") from error
    try:
        yield group
    finally:
        group.rmdir()


def evict(folder: Path) -> None:
    """Drop a folder's files from the page cache, so that the next process to read them is charged with them."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(command: list[str], group: Path | None, **environment: str) -> Cost:
    """Run a command to its end, in a control group if there is one."""
    if group is not None:
        command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *command]
    begin = time.perf_counter()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **OFFLINE, **environment}, stdout=quiet, stderr=quiet)
    watched, resident, anonymous = psutil.Process(process.pid), 0, 0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            memory = watched.memory_info()
            resident, anonymous = max(resident, memory.rss), max(anonymous, memory.rss - getattr(memory, "shared", 0))
        time.sleep(0.01)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return Cost(time.perf_counter() - begin, resident / 1e6, anonymous / 1e6)


def ours(source: Path, work: Path, group: Path | None) -> Cost:
    """Export with slmbench into a cache of its own."""
    command = [sys.executable, "-m", "slmbench", "export", str(source), "--format", "openvino"]
    return measured([*command, "--exporter", "slmbench"], group, SLMBENCH_CACHE=str(work / "cache"))


def theirs(source: Path, work: Path, group: Path | None) -> Cost:
    """Export with optimum-intel's command."""
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "-m", str(source)]
    command += ["--task", "text-generation-with-past", "--disable-convert-tokenizer", "--weight-format", "fp32"]
    return measured([*command, str(work / "theirs")], group)


def main() -> None:
    """Export by turns and print each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="a decoder-only checkpoint of the catalog")
    parser.add_argument("--exports", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0, help="memory limit, in sizes of the checkpoint; 0: none")
    options = parser.parse_args()
    spec = ArtifactSpec(format="torch", exporter="none")
    source = ensure_artifact(resolve(options.model), spec, progress=print).folder
    size = sum(path.stat().st_size for path in source.glob("*.safetensors")) / 1e6
    print(f"checkpoint: {size:.0f} MB" + (f", limit {options.limit:g} times that" if options.limit else ""))
    print("| exporter | s | resident MB | of checkpoint | anonymous MB | of checkpoint |")
    print("| :--- | ---: | ---: | ---: | ---: | ---: |")
    sides = {"slmbench export": ours, "optimum-cli": theirs}
    best: dict[str, float] = {}
    for index in range(options.exports):
        for name in list(sides)[:: 1 if index % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as work, memory_limit(int(options.limit * size * 1e6)) as group:
                if group is not None:
                    evict(source)
                    evict(Path(sys.prefix) / "lib")
                cost = sides[name](source, Path(work), group)
            best[name] = min(cost.seconds, best.get(name, cost.seconds))
            resident, anonymous = cost.resident_mb, cost.anonymous_mb
            print(
                f"| {name} | {cost.seconds:.1f} | {resident:.0f} | {resident / size:.2f} "
                f"| {anonymous:.0f} | {anonymous / size:.2f} |",
                flush=True,
            )
    print(f"\nshortest: {best['slmbench export'] / best['optimum-cli']:.2f} of optimum-cli's time")


if __name__ == "__main__":
    main()
