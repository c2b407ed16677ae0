"""Does llama.cpp compute a T5's cross-attention K/V again at every step? Times against the cost model.

    python benchmarks/cross_kv_again.py [MODEL] [--budget 60]

A step that finds K/V kept reads them: its time grows by their bytes over the memory's bandwidth. A step that computes
them again has ``cross_kv`` operations more for every token in. Both predictions stand next to what was measured, and an
engine that keeps them next to that. The matrix rate is the one that OpenVINO reaches on this machine.
"""

from __future__ import annotations

import argparse
import tempfile

import slmbench
from slmbench.models.checkpoint import resolve
from slmbench.models.cost_model import cross_kv_flops, kv_row

SHORT, LONG = 64, 448


def main() -> None:
    """Measure both engines at two lengths and print how a step's time grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="t5-small")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of measuring")
    given = parser.parse_args()
    sizes = resolve(given.model).geometry
    with tempfile.TemporaryDirectory() as folder:
        result = slmbench.run(
            models=(given.model,), backends=("openvino", "llama_cpp"), precisions=("fp32",), output_tokens=(32,),
            input_tokens=(SHORT, LONG), budget_s=given.budget, out=f"{folder}/run",
        )  # fmt: skip
        limits = next(one for one in result.columns.record.limits.values() if one["engine"] == "openvino")
        frame = result.table()
    rate = limits["matrix"]["fp32"]["flops_per_s"]
    bandwidth = min(one["bytes_per_s"] for one in limits["bandwidth"])
    more = LONG - SHORT
    computed = (cross_kv_flops(sizes, LONG) - cross_kv_flops(sizes, SHORT)) / rate
    kept = more * sizes.decoder_layers * kv_row(sizes) * 4 / bandwidth
    print(f"{given.model}, a step from {SHORT} to {LONG} tokens in takes longer by, in ms:")
    print(f"  K/V kept and read at {bandwidth / 1e9:.3g} GB/s: {kept * 1e3:.3g}")
    print(f"  K/V computed again at {rate / 1e9:.4g} GFLOP/s: {computed * 1e3:.3g}")
    for engine in ("openvino", "llama_cpp"):
        rows = frame[frame["backend"] == engine].set_index("input_tokens")
        first, last = rows.loc[SHORT], rows.loc[LONG]
        grown = [(last[f"tpot_s{end}"] - first["tpot_s"]) * 1e3 for end in ("_low", "", "_high")]
        print(f"  {engine}: {grown[1]:.3g} [{grown[0]:.3g}, {grown[2]:.3g}] (from {first['tpot_s'] * 1e3:.3g})")


if __name__ == "__main__":
    main()
