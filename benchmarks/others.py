"""Next to other tools, on the same checkpoint, device and threads: what each reports, and how long it takes.

    python benchmarks/others.py --model ./smollm2-135m --llama-bench ./llama-bench --gguf model-f32.gguf
                                [--optimum-benchmark ENV/bin/python] [--precision fp32] [--turns 5]

Tools take turns, so that the machine's drift meets all of them. slmbench is asked for one load of its best path of each
engine a turn. llama-bench wants the checkpoint as GGUF (llama.cpp's `convert_hf_to_gguf.py --outtype f32`); its prompt
and its decoding at the same depth are two tests of one call. optimum-benchmark lives in an environment of its own
(0.6 wants transformers 4). A tool that is not there is said to be not there.

Wanted: decoding of slmbench's best path at least as fast as llama-bench's, in fp32 and in bf16.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import CannotRunError

#: Run by an interpreter that has optimum-benchmark; prints one line of JSON.
OPTIMUM = """
import json, sys
from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, OVConfig, ProcessConfig
model, hint, given, asked, threads = *sys.argv[1:3], *map(int, sys.argv[3:])
config = BenchmarkConfig(
    name="beside",
    launcher=ProcessConfig(device_isolation=False),
    scenario=InferenceConfig(
        latency=True, memory=False, input_shapes={"batch_size": 1, "sequence_length": given},
        generate_kwargs={"max_new_tokens": asked, "min_new_tokens": asked},
    ),
    backend=OVConfig(
        model=model, device="cpu", task="text-generation", library="transformers",
        ov_config={"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint},
    ),
)
report = Benchmark.launch(config)
# Prompts a second; the other is in tokens.
print("REPORT " + json.dumps([report.prefill.throughput.value * given, report.decode.throughput.value]))
"""


@dataclass(frozen=True)
class Reported:
    """What one tool says of one turn; rates in tokens/s."""

    prefill_tps: float
    decode_tps: float
    wall_s: float


Tool = Callable[[], Iterator[tuple[str, Reported]]]


def absolute(path: str) -> str:
    """Return the path as it is from any folder, its links as they are: an environment's interpreter is one."""
    return str(Path(path).absolute())


def run_text(command: list[str]) -> tuple[str, float]:
    """Run a command; return what it printed and its seconds.

    Raises:
        CannotRunError: it fails; the last line of what it said is in the message.
    """
    begin = time.perf_counter()
    # optimum-benchmark leaves its log where it is called.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise CannotRunError(f"{command[0]} ended with {done.returncode}: {said}")
    return done.stdout, time.perf_counter() - begin


def slmbench(given: argparse.Namespace, out: Path) -> Iterator[tuple[str, Reported]]:
    """Yield what slmbench reports of each backend; all of them share one call and its time."""
    folder = Path(tempfile.mkdtemp(dir=out)) / "run"
    command = [sys.executable, "-m", "slmbench", "run", "--model", given.model, "--precision", given.precision]
    command += ["--input-tokens", str(given.input_tokens), "--output-tokens", str(given.output_tokens)]
    command += ["--threads", str(given.threads), "--repeat", str(given.samples), "--out", str(folder)]
    command += [word for backend in given.backend for word in ("--backend", backend)]
    _, wall_s = run_text(command)
    with (folder / "table.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            prefill_tps, decode_tps = (float(row[name] or "nan") for name in ("prefill_tps", "decode_tps"))
            yield (
                f"slmbench {row['backend']} {row['weight_precision']}/{row['compute_precision']}",
                Reported(prefill_tps, decode_tps, wall_s),
            )


def llama_bench(given: argparse.Namespace) -> Iterator[tuple[str, Reported]]:
    """Yield what llama-bench reports of each GGUF: the prompt alone, and decoding behind such a prompt."""
    for gguf in given.gguf:
        command = [given.llama_bench, "-m", gguf, "-t", str(given.threads), "-r", str(given.samples), "-o", "json"]
        prompt, prompt_s = run_text([*command, "-p", str(given.input_tokens), "-n", "0"])
        depth = ["-d", str(given.input_tokens)]
        decode, decode_s = run_text([*command, "-p", "0", "-n", str(given.output_tokens), *depth])
        prefill_tps, decode_tps = (statistics.median(json.loads(text)[0]["samples_ts"]) for text in (prompt, decode))
        yield f"llama-bench {Path(gguf).name}", Reported(prefill_tps, decode_tps, prompt_s + decode_s)


def optimum_benchmark(given: argparse.Namespace) -> Iterator[tuple[str, Reported]]:
    """Yield what optimum-benchmark reports of OpenVINO."""
    shape = [str(n) for n in (given.input_tokens, given.output_tokens, given.threads)]
    hint = {"fp32": "f32"}.get(given.precision, given.precision)
    text, wall_s = run_text([given.optimum_benchmark, "-c", OPTIMUM, given.model, hint, *shape])
    line = next(line for line in text.splitlines() if line.startswith("REPORT "))
    prefill_tps, decode_tps = json.loads(line.removeprefix("REPORT "))
    yield "optimum-benchmark openvino", Reported(prefill_tps, decode_tps, wall_s)


def tools_of(given: argparse.Namespace, out: Path) -> list[Tool]:
    """Return the tools that are there, and say which are not."""
    tools: list[Tool] = [lambda: slmbench(given, out)]
    if given.llama_bench and given.gguf:
        tools.append(lambda: llama_bench(given))
    else:
        print("llama-bench: not there (--llama-bench and --gguf)")
    if given.optimum_benchmark:
        tools.append(lambda: optimum_benchmark(given))
    else:
        print("optimum-benchmark: not there (--optimum-benchmark)")
    return tools


def main() -> None:
    """Let every tool measure by turns and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", required=True, type=absolute, help="a checkpoint folder, the one the GGUF was made of"
    )
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--backend", nargs="+", default=["openvino", "openvino_genai", "onnxruntime", "llama_cpp"])
    parser.add_argument("--llama-bench", type=absolute)
    parser.add_argument("--gguf", nargs="*", default=[], type=absolute)
    parser.add_argument("--optimum-benchmark", type=absolute, help="an interpreter that has it")
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=3, help="samples a turn")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, list[Reported]] = {}
    with tempfile.TemporaryDirectory() as name:
        tools = tools_of(given, Path(name))
        for turn in range(given.turns):
            for tool in tools if turn % 2 == 0 else tools[::-1]:
                try:
                    for label, reported in tool():
                        found.setdefault(label, []).append(reported)
                except CannotRunError as error:
                    print(f"left out: {error}", file=sys.stderr)
    best = max(
        (label for label in found if label.startswith("slmbench")),
        key=lambda label: _median(found[label], "decode_tps"),
    )
    print(f"{given.input_tokens} in, {given.output_tokens} out, {given.threads} threads, {given.turns} turns, medians")
    print(f"| tool | prompt tok/s | decode tok/s | decode of {best} / its | s a turn |")
    print("| :--- | ---: | ---: | ---: | ---: |")
    for label, turns in found.items():
        ratios = [ours.decode_tps / theirs.decode_tps for ours, theirs in zip(found[best], turns, strict=False)]
        prefill, decode, wall = (_median(turns, field) for field in ("prefill_tps", "decode_tps", "wall_s"))
        print(f"| {label} | {prefill:.0f} | {decode:.1f} | {statistics.median(ratios):.2f} | {wall:.1f} |")


def _median(turns: list[Reported], field: str) -> float:
    values: list[float] = [getattr(turn, field) for turn in turns]
    return statistics.median(value for value in values if math.isfinite(value))


if __name__ == "__main__":
    main()
