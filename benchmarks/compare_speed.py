"""How long `slmbench compare` takes for large runs, and how much memory.

    python benchmarks/compare_speed.py [--samples 10000 1000000] [--tokens 32]

Wanted: two runs of 10 000 samples in 1.5 s, of a million in 20 s and 1 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from synthetic import Speed, make_run

CASES = 20
ROUNDS = 5


def write_large(folder: Path, samples: int, tokens: int, seed: int) -> None:
    """Write a run of that many samples, from a few thousand different ones."""
    speeds = [Speed(model=f"model-{case}", output_tokens=tokens, loads=3, rounds=ROUNDS) for case in range(CASES)]
    made = make_run(speeds, seed=seed)
    made.write(folder)
    templates = [line for line in made.lines if line.type == "sample"]
    texts = [
        line.model_dump_json().replace(f'"load":{line.load},"round":{line.round}', '"load":LL,"round":RR')
        for line in templates
    ]
    rng = np.random.default_rng(seed)
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
        for index in range(len(templates), samples):
            load, text = 3 + index // (CASES * ROUNDS) % 60, texts[int(rng.integers(len(texts)))]
            file.write(text.replace("LL", str(load), 1).replace("RR", str(index // CASES), 1) + "\n")


def timed(folders: list[Path]) -> tuple[float, float, float]:
    """Return seconds, processor seconds and peak MB of comparing the runs in a process of its own."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "slmbench", "compare", *map(str, folders)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak, busy = 0, 0.0
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
            busy = max(busy, process.cpu_times().user + process.cpu_times().system)
        except psutil.Error:
            break
        time.sleep(0.02)
    if process.wait() != 0:
        raise SystemExit(f"compare ended with {process.returncode}")
    return time.perf_counter() - begin, busy, peak / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    print("| samples a run | file MB | seconds, best of 3 | processor seconds | peak MB |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for samples in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            folders = [Path(folder) / name for name in ("a", "b")]
            for seed, path in enumerate(folders):
                write_large(path, samples, options.tokens, seed)
            size = (folders[0] / "samples.jsonl").stat().st_size / 1e6
            results = [timed(folders) for _ in range(3 if samples < 100_000 else 1)]
        wall, busy, peak = min(results)
        print(f"| {samples} | {size:.0f} | {wall:.2f} | {busy:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
