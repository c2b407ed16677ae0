"""Whether graphs of the generic route are as fast as those of slmbench's own builder.

    python benchmarks/generic_route.py [--loads 3] [--rounds 5] [--models smollm2-135m t5-small]

Wanted: ttft and tpot at most 1.10 on the shapes of a Llama and of a T5, on OpenVINO and on ONNX Runtime. Both sides
are loaded side by side, several times over, and their samples interleaved; a figure is the median over loads of the
ratio of medians within a load. The machine may be shared: a ratio counts, a time does not. On OpenVINO the two routes
trace the same network, so the ratio there is that of identical graphs.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Literal

from openvino_parity import Open, opener, ratios, report

from slmbench.export.build import ensure_artifact
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.terms import Precision

ENGINES: dict[str, Literal["openvino", "onnx"]] = {"openvino": "openvino", "onnxruntime": "onnx"}


def artifact_of(
    model: str, format_: Literal["openvino", "onnx"], precision: Precision, exporter: Literal["generic", "slmbench"]
) -> Artifact:
    """Return the artifact, exported where the cache lacks it."""
    spec = ArtifactSpec(format=format_, weight_precision=precision, exporter=exporter)
    return ensure_artifact(resolve(model), spec, progress=print)


def main() -> None:
    """Measure what is asked and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inputs", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--output-tokens", type=int, default=24)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int8", "int4"])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "t5-small"])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    options = parser.parse_args()
    print("| generic / slmbench | input tokens | ttft ratio (loads) | tpot ratio (loads) |")
    print("| :--- | ---: | :--- | :--- |")
    for model in options.models:
        for engine in options.engines:
            make = partial(artifact_of, model, ENGINES[engine], options.precision)
            compute = "int8" if engine == "onnxruntime" and options.precision != "fp32" else "fp32"
            common = {"threads": options.threads, "compute_precision": compute}
            sides: tuple[Open, Open] = (
                opener(engine, make("generic"), **common),
                opener(engine, make("slmbench"), **common),
            )
            for inputs in options.inputs:
                found = ratios(sides, resolve(model).geometry.vocab_size, inputs, options)
                report(f"{model}, {engine}", inputs, found)


if __name__ == "__main__":
    main()
