"""How much of the read bandwidth decoding uses: a model's decode steps against the same engine's bare products.

    python benchmarks/bandwidth_use.py [--model smollm2-135m] [--backend openvino onnxruntime] [--turns 5]

A turn measures each engine's limits again (as `slmbench limits --again`) and then runs all cases side by side; each
turn's figures are compared with its own limits, so that the machine's drift meets both. Wanted for the 135M shape in
fp32 on a quiet machine: 0.90 on ONNX Runtime, 0.80 on OpenVINO.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import slmbench
from slmbench.backend import load_backend
from slmbench.machine.limits import limits_of


def main() -> None:
    """Take the turns and print each backend's use of the bandwidth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--backend", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--exporter", default="slmbench")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=9, help="samples a case and turn; a load has three")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(given.turns):
            # Backends of one engine share its limits.
            for backend in {load_backend(name).engine: name for name in given.backend}.values():
                limits_of(backend, "cpu", again=True)
            result = slmbench.run(
                models=[given.model],
                backends=given.backend,
                exporter=given.exporter,
                input_tokens=[given.input_tokens],
                output_tokens=[given.output_tokens],
                repeat=given.repeat,
                out=Path(folder) / str(turn),
            )
            for row in result.table().to_dict("records"):
                found[row["backend"], row["attention"]].append(row["bandwidth_use"])
            print(f"turn {turn + 1}:", {" ".join(path): round(uses[-1], 3) for path, uses in found.items()}, flush=True)
    print(f"{given.model}, {given.input_tokens} in, {given.output_tokens} out, fp32: median of {given.turns} turns")
    for (backend, attention), uses in found.items():
        print(f"  {backend} ({attention}): {statistics.median(uses):.3f}, from {min(uses):.3f} to {max(uses):.3f}")


if __name__ == "__main__":
    main()
