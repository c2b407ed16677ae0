"""Quality of GGUF files: slmbench's figures against those of llama.cpp's own tool, on the same files and positions.

    python benchmarks/llama_perplexity.py CHECKPOINT --llama-perplexity build/bin/llama-perplexity

`llama-perplexity --kl-divergence-base` reads a text with the file in fp32 and keeps its predictions; `--kl-divergence`
compares another file with them. The tokens that it kept are then read by slmbench, with torch in fp32 as the reference,
and judged at the same positions, with the same K/V type, flash attention and threads. What still differs is in
docs/quality.md. Wanted: llama.cpp's figure is within slmbench's interval.

llama-perplexity is built from the sources in llama-cpp-python's sdist (`pip download --no-binary :all: --no-deps
llama-cpp-python==VERSION`, then in its `vendor/llama.cpp`: `cmake -B build -DBUILD_SHARED_LIBS=ON -DLLAMA_CURL=OFF
-DLLAMA_OPENSSL=OFF` and `cmake --build build --target llama-perplexity`). It is run with the installed package's own
libraries, so that both sides compute with the same code; --own-libraries leaves it its own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from slmbench.analysis.divergence import Divergence, divergence_of
from slmbench.backend import Backend, ComputeDefault, TellsSettings, load_backend
from slmbench.errors import CannotRunError
from slmbench.evaluation.stored_reference import is_stored, place_of
from slmbench.evaluation.text import WINDOWS, Window, read_texts, shipped_text
from slmbench.evaluation.token_divergence import judge_window
from slmbench.evaluation.torch_reference import make_reference
from slmbench.export.build import ensure_artifact
from slmbench.export.golden_record import reference_versions
from slmbench.models.artifact import Artifact
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.records.quality import QUALITY_NAME, WindowRecord, read_quality
from slmbench.terms import Precision


@dataclass(frozen=True)
class Theirs:
    """What llama-perplexity prints; the errors are one standard error over tokens."""

    kl: float
    kl_error: float
    same_top1: float
    log_perplexity_change: float


def artifact_of(checkpoint: Checkpoint, precision: Precision, backend: Backend) -> Artifact:
    """Return the GGUF file of a precision, exported where the store lacks it."""
    spec = next(iter(backend.artifact_specs(checkpoint, precision, "cpu")))
    return ensure_artifact(checkpoint, spec, progress=print)


def run_tool(options: argparse.Namespace, *arguments: str) -> str:
    """Run llama-perplexity and return what it says."""
    environment = dict(os.environ)
    package = find_spec("llama_cpp")
    if not options.own_libraries and package is not None and package.origin:
        environment["LD_LIBRARY_PATH"] = str(Path(package.origin).parent / "lib")
    command = [options.llama_perplexity, "-t", str(options.threads), "-ngl", "0", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRunError(f"llama-perplexity ended with {done.returncode}: {(done.stderr.strip() or '-')[-500:]}")
    return done.stdout + done.stderr


def theirs_of(said: str) -> Theirs:
    """Read the figures out of what llama-perplexity said."""

    def figure(name: str) -> tuple[float, float]:
        found = re.search(re.escape(name) + r"\s*:\s*(-?[\d.]+)\s*±\s*([\d.]+)", said)
        if found is None:
            raise CannotRunError(f"llama-perplexity says nothing of {name!r}: {said[-500:]}")
        return float(found[1]), float(found[2])

    kl, error = figure("Mean    KLD")
    return Theirs(kl, error, figure("Same top p")[0] / 100, figure("Mean ln(PPL(Q)/PPL(base))")[0])


def first_token_of(path: Path) -> int | None:
    """Return the token that the tool puts first in each chunk; None where the file asks for none."""
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    found = int(llama_cpp.llama_vocab_bos(vocab)) if llama_cpp.llama_vocab_get_add_bos(vocab) else None
    llama_cpp.llama_model_free(model)
    return found


def windows_of_base(path: Path, first_token: int | None) -> list[Window]:
    """Return the tokens that llama-perplexity kept, as windows of which the second half is judged.

    ``first_token`` takes the place of each chunk's first, as the tool does it for models that want one.
    """
    raw = path.open("rb").read(20)
    if raw[:8] != b"_logits_":
        raise CannotRunError(f"{path}: not what llama-perplexity keeps")
    context, _, chunks = np.frombuffer(raw[8:], np.int32).tolist()
    tokens = np.fromfile(path, np.int32, context * chunks, offset=20).reshape(chunks, context)
    if first_token is not None:
        tokens[:, 0] = first_token
    first = context // 2 + 1
    return [
        Window(document=0, window=place, given=tuple(row[:first]), target=tuple(row[first:]), continues=True)
        for place, row in enumerate(tokens.tolist())
    ]


def ours_of(
    checkpoint: Checkpoint, artifact: Artifact, backend: Backend, windows: list[Window], options: argparse.Namespace
) -> tuple[Divergence, dict[str, tuple[str, str]]]:
    """Return slmbench's figures, and the settings that were in effect."""
    assert isinstance(backend, ComputeDefault)
    compute = backend.default_compute(artifact.manifest.spec.weight_precision, "cpu", simulate=False)
    chosen = backend.options_type.model_validate({"threads": options.threads, "compute_precision": compute})
    session = backend.open(artifact, "cpu", chosen)
    assert isinstance(session, TellsSettings)
    place = place_of(checkpoint, windows, reference_versions())
    if not is_stored(place):
        make_reference(checkpoint, windows, place)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "windows.json"
        file.write_bytes(WINDOWS.dump_json(windows))
        lines = [
            WindowRecord(
                cases=("case",), reference=checkpoint.name, reference_digest="", text_digest="", document=0,
                window=window.window,
                **judge_window(session, place, file, window.window, checkpoint.family).model_dump(),
            )
            for window in windows
        ]  # fmt: skip
        (Path(folder) / QUALITY_NAME).write_text("".join(line.model_dump_json() + "\n" for line in lines))
        settings = dict(session.settings())
        session.close()
        return divergence_of(read_quality(Path(folder))["case"]), settings


def row_of(precision: str, theirs: Theirs, ours: Divergence) -> str:
    """Return a line of the table."""
    kl, top1, change = ours.kl, ours.same_top1, ours.log_perplexity_change
    assert kl is not None
    assert top1 is not None
    assert change is not None
    within = "yes" if kl.low <= theirs.kl <= kl.high else "no"
    return (
        f"| {precision} | {theirs.kl:.5f} ± {theirs.kl_error:.5f} | {kl.mid:.5f} [{kl.low:.5f}, {kl.high:.5f}] | "
        f"{within} | {100 * theirs.same_top1:.2f} | {100 * top1.mid:.2f} | "
        f"{theirs.log_perplexity_change:+.5f} | {change.mid:+.5f} |"
    )


def main() -> None:
    """Compare every precision that is asked for and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="a decoder-only checkpoint with a tokenizer that its GGUF file can carry")
    parser.add_argument("--llama-perplexity", required=True, help="its program, of the installed library's version")
    parser.add_argument("--own-libraries", action="store_true", help="the program computes with its own libraries")
    parser.add_argument("--precision", nargs="+", default=["fp16", "q8_0", "q4_k_m", "int8", "int4"])
    parser.add_argument("--text", type=Path, nargs="*", default=[])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    checkpoint, backend = resolve(options.checkpoint), load_backend("llama_cpp")
    text = read_texts(options.text) if options.text else shipped_text()
    with tempfile.TemporaryDirectory() as folder:
        read, base = Path(folder) / "text.txt", Path(folder) / "base.bin"
        read.write_text("\n\n".join(document.text for document in text.documents), encoding="utf-8")
        whole = artifact_of(checkpoint, "fp32", backend)
        sizes = ["-c", str(options.context), "-b", str(options.context), "--chunks", str(options.chunks)]
        exact = ["-ctk", "f32", "-ctv", "f32", "-fa", "off"]
        model = ["-m", str(whole.graph("model"))]
        run_tool(options, *model, "-f", str(read), "--kl-divergence-base", str(base), *sizes, *exact)
        windows = windows_of_base(base, first_token_of(whole.graph("model")))
        judged = sum(len(window.target or ()) for window in windows)
        print(f"{len(windows)} chunks of {options.context} tokens, {judged} positions")
        print("| weights | llama.cpp KL ± SE | slmbench KL [95 %] | within | top-1 | ours | ln ppl change | ours |")
        print("| :--- | ---: | ---: | :---: | ---: | ---: | ---: | ---: |")
        for precision in options.precision:
            artifact = artifact_of(checkpoint, precision, backend)
            ours, settings = ours_of(checkpoint, artifact, backend, windows, options)
            kv, flash = settings["kv_cache"][1], settings["flash attention"][1]
            same = ["-ctk", kv, "-ctv", kv, "-fa", "on" if flash == "enabled" else "off"]
            model = ["-m", str(artifact.graph("model"))]
            said = run_tool(options, *model, "--kl-divergence-base", str(base), "--kl-divergence", *sizes, *same)
            print(row_of(precision, theirs_of(said), ours), flush=True)


if __name__ == "__main__":
    main()
