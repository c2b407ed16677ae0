"""Files that a user brings, in our loop and in the tool that they are for: interleaved, on the same file.

    python benchmarks/given_parity.py --ir FOLDER --genai FOLDER --gguf FILE --llama-bench build/bin/llama-bench

ir: our loop on the IR as it is (SDPA) against openvino-genai's SDPA pipeline. Wanted: tpot at most 1.02.
genai: our loop on an onnxruntime-genai folder against onnxruntime-genai. Wanted: tpot at most 1.02.
gguf: our loop against llama-bench: same file, depth, batch, K/V type, flash attention and threads. Wanted: tpot at most
    1.02. llama-bench is built from the sources in llama-cpp-python's sdist (`pip download --no-binary :all: --no-deps
    llama-cpp-python==VERSION`, `cmake -B build -DBUILD_SHARED_LIBS=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF` in its
    `vendor/llama.cpp`, target llama-bench: 5 minutes on 2 cores). It is run with the installed package's own libraries,
    so that both sides compute with the same code and the same flags; --own-libraries leaves it its own.

Figures are medians over loads of ratios of medians within a load. The machine may be shared: a ratio counts, a time
does not. With the defaults and models of 135M each kind takes about 4 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from openvino_parity import Open, Timing, opener, ratios, report

from slmbench.backend import Backend, ComputeDefault, Session, load_backend
from slmbench.errors import CannotRunError
from slmbench.export.given_artifact import given_artifact
from slmbench.measure.generate import generate
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, resolve


def artifact_of(path: str) -> tuple[Checkpoint, Artifact]:
    """Return what the user's file or folder is, as it is."""
    found = resolve(path)
    if found.given is None:
        raise CannotRunError(f"{path}: a checkpoint, not an artifact")
    spec = ArtifactSpec(format=found.given.format, weight_precision=found.given.precision, exporter="given")
    return found, given_artifact(found, spec, None)


def compute_of(found: Checkpoint, backend: Backend) -> str:
    """Return what the backend computes the artifact in."""
    assert found.given is not None
    assert isinstance(backend, ComputeDefault)
    return found.given.compute or backend.default_compute(found.given.precision, "cpu", simulate=False)


def sides_of(kind: str, path: str, options: argparse.Namespace) -> tuple[Checkpoint, tuple[Open, Open]]:
    """Return the model, and our loop on it and the engine's own."""
    found, artifact = artifact_of(path)
    assert found.given is not None
    ours, theirs = ("openvino", "openvino_genai") if kind == "ir" else ("onnxruntime", "onnxruntime_genai")
    common = {"threads": options.threads, "compute_precision": compute_of(found, load_backend(ours))}
    path_of = {"attention": "SDPA"} if kind == "ir" else {}
    return found, (opener(ours, artifact, **common, **path_of), opener(theirs, artifact, **common, **path_of))


def llama_bench(path: str, inputs: int, options: argparse.Namespace) -> Timing:
    """Return what llama-bench reports: of a prompt alone, and a token behind such a prompt; in ns."""
    environment = dict(os.environ)
    package = find_spec("llama_cpp")
    if not options.own_libraries and package is not None and package.origin:
        environment["LD_LIBRARY_PATH"] = str(Path(package.origin).parent / "lib")
    command = [options.llama_bench, "-m", path, "-t", str(options.threads), "-r", str(options.rounds), "-o", "json"]
    command += ["-ctk", options.kv, "-ctv", options.kv, "-fa", str(int(options.flash)), "-ngl", "0"]

    def rate(*test: str) -> float:
        done = subprocess.run([*command, *test], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotRunError(f"llama-bench ended with {done.returncode}: {(done.stderr.strip() or '-')[-300:]}")
        return float(statistics.median(json.loads(done.stdout)[0]["samples_ts"]))

    prompt = rate("-p", str(inputs), "-n", "0")
    decode = rate("-p", "0", "-n", str(options.output_tokens), "-d", str(inputs))
    return Timing(1e9 * inputs / prompt, 1e9 / decode)


def our_llama(path: str, inputs: int, seed: int, options: argparse.Namespace) -> Timing:
    """Return the medians of one load of ours, for as many steps at the same depth."""
    found, artifact = artifact_of(path)
    backend = load_backend("llama_cpp")
    chosen = {
        "threads": options.threads,
        "kv_cache": options.kv,
        "attention": "flash" if options.flash else "unfused",
        "compute_precision": compute_of(found, backend),
    }
    session = backend.open(artifact, "cpu", backend.options_type.model_validate(chosen))
    assert isinstance(session, Session)
    # The first token comes out of the prompt: one more than the steps.
    count, rng = options.output_tokens + 1, np.random.default_rng(seed)
    session.reserve(1, inputs, count)
    taken = []
    for _ in range(options.rounds + 1):
        prompt = rng.integers(4, found.geometry.vocab_size, (1, inputs))
        stamps = generate(session, prompt, None, count).token_ns
        taken.append(Timing(stamps[0], (stamps[-1] - stamps[0]) / (count - 1)))
    session.close()
    del taken[0]
    return Timing(statistics.median(t.ttft for t in taken), statistics.median(t.tpot for t in taken))


def against_llama_bench(path: str, inputs: int, options: argparse.Namespace) -> list[Timing]:
    """Return per load our medians over llama-bench's; who comes first changes with the load."""
    found = []
    for load in range(options.loads):
        if load % 2 == 0:
            ours = our_llama(path, inputs, load, options)
            theirs = llama_bench(path, inputs, options)
        else:
            theirs = llama_bench(path, inputs, options)
            ours = our_llama(path, inputs, load, options)
        found.append(Timing(ours.ttft / theirs.ttft, ours.tpot / theirs.tpot))
    return found


def main() -> None:
    """Measure what is given and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ir", help="a folder in optimum-intel's layout, decoder-only")
    parser.add_argument("--genai", help="a folder of onnxruntime-genai")
    parser.add_argument("--gguf", help="a GGUF file, decoder-only")
    parser.add_argument("--llama-bench", help="its program, of the installed library's version")
    parser.add_argument("--own-libraries", action="store_true", help="llama-bench computes with its own libraries")
    parser.add_argument("--kv", default="f16", choices=["f16", "f32", "bf16"])
    parser.add_argument("--flash", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inputs", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.gguf and not options.llama_bench:
        parser.error("--gguf goes with --llama-bench")
    print("| what | input tokens | ttft ratio (loads) | tpot ratio (loads) |")
    print("| :--- | ---: | :--- | :--- |")
    for kind in ("ir", "genai"):
        if path := getattr(options, kind):
            model, sides = sides_of(kind, path, options)
            for inputs in options.inputs:
                report(kind, inputs, ratios(sides, model.geometry.vocab_size, inputs, options))
    for inputs in options.inputs if options.gguf else ():
        report("gguf", inputs, against_llama_bench(options.gguf, inputs, options))


if __name__ == "__main__":
    main()
