"""Whether our ONNX graphs and our loop are as fast as those people deploy; what recomputed cross K/V would cost.

    python benchmarks/onnx_parity.py [--loads 3] [--rounds 5] [--only graph loop cross]

graph: our artifact against the onnxruntime-genai builder's, in our loop. Wanted: ttft and tpot at most 1.05.
loop: our loop against onnxruntime-genai's, on our artifact. Wanted: tpot at most 1.02, ttft at most 1.00.
cross: an encoder-decoder that computes its cross K/V at every step against ours, which never does. Wanted: 1.3.

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
from time import perf_counter_ns
from typing import Any

import numpy as np
from slmbench.backends.onnxruntime.graph import bind, bind_out
from slmbench.backends.onnxruntime.session import OrtEncoderDecoderSession

from slmbench.backend import Session, SessionOptions, load_backend
from slmbench.export.build import ensure_artifact
from slmbench.models.artifact import Artifact, ArtifactSpec, Role
from slmbench.models.checkpoint import resolve
from slmbench.terms import Exporter


@dataclass(frozen=True)
class Timing:
    """One generation: to the first token, and per token after it, in ns."""

    ttft: float
    tpot: float


Open = Callable[[], Session]


def artifact_of(model: str, exporter: Exporter, precision: str) -> Artifact:
    """Return the artifact, exported where the cache lacks it."""
    spec = ArtifactSpec.model_validate({"format": "onnx", "weight_precision": precision, "exporter": exporter})
    return ensure_artifact(resolve(model), spec, progress=print)


def opener(backend: str, artifact: Artifact, threads: int | None) -> Open:
    """Return a function that opens a session."""

    def open_() -> Session:
        session = load_backend(backend).open(artifact, "cpu", SessionOptions(threads=threads))
        assert isinstance(session, Session)
        return session

    return open_


def sample(session: Session, prompt: Any, tokens: int) -> Timing:
    """Time one generation."""
    begin = perf_counter_ns()
    token = session.start(prompt)
    first = perf_counter_ns()
    for _ in range(tokens - 1):
        token = session.step(token)
    return Timing(first - begin, (perf_counter_ns() - first) / (tokens - 1))


def ratios(sides: tuple[Open, Open], vocabulary: int, inputs: int, options: argparse.Namespace) -> list[Timing]:
    """Return per load the first side's medians over the second's."""
    rng, found = np.random.default_rng(inputs), []
    for load in range(options.loads):
        # Whoever is loaded first gets other memory: the order changes with the load.
        order = (0, 1) if load % 2 == 0 else (1, 0)
        sessions = {side: sides[side]() for side in order}
        taken: dict[int, list[Timing]] = {0: [], 1: []}
        for session in sessions.values():
            session.reserve(1, inputs, options.output_tokens)
        for round_ in range(options.rounds + 1):
            for side in (0, 1) if rng.random() < 0.5 else (1, 0):
                prompt = rng.integers(4, vocabulary, (1, inputs))
                timing = sample(sessions[side], prompt, options.output_tokens)
                if round_ > 0:
                    taken[side].append(timing)
        medians = [
            Timing(statistics.median(t.ttft for t in taken[side]), statistics.median(t.tpot for t in taken[side]))
            for side in (0, 1)
        ]
        found.append(Timing(medians[0].ttft / medians[1].ttft, medians[0].tpot / medians[1].tpot))
        for session in sessions.values():
            session.close()
        del sessions
        gc.collect()
    return found


def report(name: str, inputs: int, found: list[Timing]) -> None:
    """Print one row: the median over loads, and the loads."""
    columns = ([t.ttft for t in found], [t.tpot for t in found])
    cells = [f"{statistics.median(c):.3f} ({', '.join(f'{v:.3f}' for v in sorted(c))})" for c in columns]
    print(f"| {name} | {inputs} | {' | '.join(cells)} |", flush=True)


class Recomputing(OrtEncoderDecoderSession):  # type: ignore[misc]  # a class of backends/, which mypy finds under another name
    """Our loop over the variant: the encoder's states take the place of the cross K/V."""

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the buffers."""
        super().reserve(batch, input_tokens, output_tokens)
        self._states = np.zeros(batch * input_tokens * self._geometry.width, np.float32)

    def _bind_cross(self, length: int) -> None:
        shape = (self._batch, length, self._geometry.width)
        bind_out(self._prompt, "encoder_states", self._states, shape=shape)
        bind(self._step, "encoder_states", self._states, shape=shape)
        self._encoded = length


def recomputing(artifact: Artifact, folder: Path) -> Artifact:
    """Write a variant whose decoder computes K and V of the encoder's states at every step, as bad exports do.

    The products are ours, moved from the encoder graph to the decoder graph.
    """
    import onnx_ir as ir

    encoder, decoder = (ir.load(artifact.graph("encoder")), ir.load(artifact.graph("decoder")))
    sizes = artifact.manifest.checkpoint.geometry
    outputs = {value.name: value for value in encoder.graph.outputs}
    chains = {name: _chain(value) for name, value in outputs.items()}
    states = chains["cross.0.key"][0].inputs[0]
    taken = ir.Value(
        name="encoder_states", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", "encoded", sizes.width])
    )
    moved: list[Any] = []
    for name, nodes in chains.items():
        (port,) = (value for value in decoder.graph.inputs if value.name == name)
        made = {id(states): taken}
        for node in nodes:
            inputs = [made.get(id(value)) or _constant(decoder, value) for value in node.inputs]
            copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()))
            made[id(node.outputs[0])] = copy.outputs[0]
            moved.append(copy)
        decoder.graph.inputs.remove(port)
        ir.convenience.replace_all_uses_with(port, moved[-1].outputs[0])
    decoder.graph.insert_before(decoder.graph[0], moved)
    decoder.graph.inputs.append(taken)
    encoder.graph.outputs.clear()
    states.name = "encoder_states"
    states.type, states.shape = taken.type, taken.shape
    encoder.graph.outputs.append(states)
    roles: dict[Role, Any] = {"encoder": encoder, "decoder": decoder}
    for role, model in roles.items():
        path = folder / artifact.manifest.graphs[role]
        ir.save(model, path, external_data=f"{path.name}.data")
    return Artifact(folder, artifact.manifest)


def _chain(value: Any) -> list[Any]:
    """Return the nodes from the encoder's states to one cross K or V, first to last."""
    nodes = [value.producer()]
    while nodes[0].op_type != "MatMul":
        nodes.insert(0, nodes[0].inputs[0].producer())
    return nodes


def _constant(model: Any, value: Any) -> Any:
    import onnx_ir as ir

    name = f"encoder.{value.name}"
    if name not in model.graph.initializers:
        tensor = ir.tensor(value.const_value.numpy(), name=name)
        copy = ir.Value(name=name, type=value.type, shape=value.shape, const_value=tensor)
        model.graph.initializers[name] = copy
    return model.graph.initializers[name]


def main() -> None:
    """Measure what is asked and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--input-tokens", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--output-tokens", type=int, default=24)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int4"])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pair", default="mu-small", help="the encoder-decoder of `cross`")
    parser.add_argument("--only", nargs="+", choices=["graph", "loop", "cross"], default=["graph", "loop", "cross"])
    options = parser.parse_args()
    sides: dict[str, tuple[Open, Open]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if {"graph", "loop"} & set(options.only):
            ours = artifact_of(options.model, "slmbench", options.precision)
            if "graph" in options.only:
                theirs = artifact_of(options.model, "genai", options.precision)
                sides["graph"] = (
                    opener("onnxruntime", ours, options.threads),
                    opener("onnxruntime", theirs, options.threads),
                )
            if "loop" in options.only:
                sides["loop"] = (
                    opener("onnxruntime", ours, options.threads),
                    opener("onnxruntime_genai", ours, options.threads),
                )
        if "cross" in options.only:
            whole = artifact_of(options.pair, "slmbench", "fp32")
            variant = recomputing(whole, Path(folder))
            chosen = SessionOptions(threads=options.threads)
            sides["cross"] = (
                lambda: Recomputing(variant, "cpu", chosen),
                opener("onnxruntime", whole, options.threads),
            )
        print("| what | input tokens | ttft ratio (loads) | tpot ratio (loads) |")
        print("| :--- | ---: | :--- | :--- |")
        for name, pair in sides.items():
            model = resolve(options.pair if name == "cross" else options.model)
            for inputs in options.input_tokens:
                report(name, inputs, ratios(pair, model.geometry.vocab_size, inputs, options))


if __name__ == "__main__":
    main()
