"""Whether our OpenVINO graphs and our loop are as fast as those people deploy; what recomputed cross K/V would cost.

    python benchmarks/openvino_parity.py [--loads 3] [--rounds 5] [--only graph loop step decoder paged cross]

graph: our artifact against optimum-intel's, in our loop. Wanted: ttft and tpot at most 1.05.
loop: our loop against openvino-genai's with SDPA, on optimum-intel's artifact. Wanted: tpot 1.02, ttft 1.00 at most.
step, decoder: steps by a graph of their own against steps by the artifact's, of a decoder-only model and of an
    encoder-decoder, on our artifact.
paged: openvino-genai's paged attention against its SDPA, on the same artifact: two paths of one engine.
cross: an encoder-decoder that computes its cross K/V at every step against ours, which never does.

Both sides are loaded side by side, several times over, and their samples interleaved; a figure is the median over
loads of the ratio of medians within a load. The machine may be shared: a ratio counts, a time does not.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmbench.backend import LoopSession, Session, load_backend
from slmbench.export.build import ensure_artifact
from slmbench.measure.generate import generate
from slmbench.models.artifact import Artifact, ArtifactSpec, Role
from slmbench.models.checkpoint import resolve
from slmbench.system.telemetry import silence_telemetry

Open = Callable[[], Session | LoopSession]
KINDS = ("graph", "loop", "step", "decoder", "paged", "cross")


@dataclass(frozen=True)
class Timing:
    """One generation: to the first token, and per token after it, in ns; or two of them divided."""

    ttft: float
    tpot: float


def artifact_of(model: str, exporter: str, precision: str) -> Artifact:
    """Return the artifact, exported where the cache lacks it."""
    spec = ArtifactSpec.model_validate({"format": "openvino", "weight_precision": precision, "exporter": exporter})
    return ensure_artifact(resolve(model), spec, progress=print)


def opener(backend: str, artifact: Artifact, **options: Any) -> Open:
    """Return a function that opens a session."""

    def open_() -> Session | LoopSession:
        found = load_backend(backend)
        return found.open(artifact, "cpu", found.options_type.model_validate(options))

    return open_


def ratios(sides: tuple[Open, Open], vocabulary: int, inputs: int, options: argparse.Namespace) -> list[Timing]:
    """Return per load the first side's medians over the second's."""
    rng, found = np.random.default_rng(inputs), []
    for load in range(options.loads):
        # Whoever is loaded first gets other memory: the order changes with the load.
        sessions = {side: sides[side]() for side in ((0, 1) if load % 2 == 0 else (1, 0))}
        taken: dict[int, list[Timing]] = {0: [], 1: []}
        for session in sessions.values():
            session.reserve(1, inputs, options.output_tokens)
        for round_ in range(options.rounds + 1):
            for side in (0, 1) if rng.random() < 0.5 else (1, 0):
                prompt = rng.integers(4, vocabulary, (1, inputs))
                stamps = generate(sessions[side], prompt, None, options.output_tokens).token_ns
                if round_ > 0:
                    taken[side].append(Timing(stamps[0], (stamps[-1] - stamps[0]) / (len(stamps) - 1)))
        first, second = (
            Timing(statistics.median(t.ttft for t in taken[side]), statistics.median(t.tpot for t in taken[side]))
            for side in (0, 1)
        )
        found.append(Timing(first.ttft / second.ttft, first.tpot / second.tpot))
        for session in sessions.values():
            session.close()
        del sessions, session
        gc.collect()
    return found


def report(name: str, inputs: int, found: list[Timing]) -> None:
    """Print one row: the median over loads, and the loads."""
    columns = ([t.ttft for t in found], [t.tpot for t in found])
    cells = [f"{statistics.median(c):.3f} ({', '.join(f'{v:.3f}' for v in sorted(c))})" for c in columns]
    print(f"| {name} | {inputs} | {' | '.join(cells)} |", flush=True)


def recomputing(artifact: Artifact, folder: Path) -> Artifact:
    """Write a variant whose decoder computes K and V of the encoder's states at every step, as bad exports do.

    The products are ours, moved from the encoder graph to the decoder graph.
    """
    silence_telemetry()
    import openvino as ov
    from openvino import opset13 as ops

    core = ov.Core()
    encoder, moved = (core.read_model(artifact.graph("encoder")) for _ in range(2))
    decoder = core.read_model(artifact.graph("decoder"))
    states = _states(encoder)
    states.set_names({"last_hidden_state"})
    bare = ov.Model([ops.result(states)], encoder.get_parameters(), "encoder")

    states = _states(moved)
    taken = ops.parameter(states.get_partial_shape(), np.float32, name="encoder_hidden_states")
    taken.output(0).set_names({"encoder_hidden_states"})
    for target in states.get_target_inputs():
        target.replace_source_output(taken.output(0))
    for port in decoder.inputs:
        (name,) = port.get_names()
        if not name.startswith("cross."):
            continue
        made = moved.output(name).get_node().input_value(0)
        for target in port.get_target_inputs():
            target.replace_source_output(made)
        decoder.remove_parameter(port.get_node())
    decoder.add_parameters([taken])
    decoder.validate_nodes_and_infer_types()
    roles: dict[Role, Any] = {"encoder": bare, "decoder": decoder}
    for role, model in roles.items():
        ov.save_model(model, str(folder / artifact.graph(role).name), compress_to_fp16=False)
    return Artifact(folder, artifact.manifest)


def _states(encoder: Any) -> Any:
    """Return the value in the encoder graph that every cross K and V is a product of."""
    found = set()
    for port in encoder.outputs:
        node = port.get_node()
        while node.get_type_name() != "MatMul":
            node = node.input_value(0).get_node()
        found.add(node.input_value(0))
    (states,) = found
    return states


def sides_of(kind: str, options: argparse.Namespace, folder: Path) -> tuple[Open, Open]:
    """Return what is compared: the first side is divided by the second."""
    common = {"threads": options.threads, "compute_precision": options.compute}
    if kind == "cross":
        whole = artifact_of(options.pair, "slmbench", options.precision)
        return opener("openvino", recomputing(whole, folder), **common), opener("openvino", whole, **common)
    if kind in ("step", "decoder"):
        ours = artifact_of(options.model if kind == "step" else options.pair, "slmbench", options.precision)
        return opener("openvino", ours, **common), opener("openvino", ours, attention="SDPA", **common)
    theirs = artifact_of(options.model, "optimum", options.precision)
    if kind == "graph":
        ours = artifact_of(options.model, "slmbench", options.precision)
        return opener("openvino", ours, **common), opener("openvino", theirs, **common)
    stateful = opener("openvino_genai", theirs, attention="SDPA", **common)
    if kind == "loop":
        return opener("openvino", theirs, **common), stateful
    return opener("openvino_genai", theirs, attention="paged", **common), stateful


def main() -> None:
    """Measure what is asked and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inputs", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--output-tokens", type=int, default=24)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "fp16", "bf16", "int8", "int4"])
    parser.add_argument("--compute", default="fp32", choices=["fp32", "fp16", "bf16"])
    parser.add_argument("--model", default="smollm2-135m", help="a decoder-only checkpoint")
    parser.add_argument("--pair", default="mu-small", help="the encoder-decoder of `decoder` and `cross`")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    print("| what | input tokens | ttft ratio (loads) | tpot ratio (loads) |")
    print("| :--- | ---: | :--- | :--- |")
    for kind in options.only:
        vocabulary = resolve(options.pair if kind in ("decoder", "cross") else options.model).geometry.vocab_size
        with tempfile.TemporaryDirectory() as folder:
            sides = sides_of(kind, options, Path(folder))
            for inputs in options.inputs:
                report(kind, inputs, ratios(sides, vocabulary, inputs, options))


if __name__ == "__main__":
    main()
