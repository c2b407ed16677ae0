"""Broken inputs, made by code from good ones: each has a name, its files, the command that reads it and what is right.

A mutation that may leave a file good (an optional field taken out) is marked ``may_pass``: then the command may
succeed, but whatever it says is still one line, and never a traceback.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from folders import make_folder
from synthetic import Speed, make_run

from slmbench.case import Case, Workload
from slmbench.models.artifact import MANIFEST_NAME, ArtifactSpec, Manifest
from slmbench.models.checkpoint import Checkpoint, checkpoint_of_folder

Path_ = tuple[str | int, ...]

#: Nested deeper than any parser's stack.
DEEP = "[" * 100_000
#: What must not reach a terminal or a page as it is.
STEERING = "\x1b[31m<script>\u202e\n|x|"
#: What a string, a number, a list and an object are all not.
ODD = {"odd": [None]}


@dataclass(frozen=True)
class Broken:
    """One broken input. ``files`` are written below a fresh folder, which ``{}`` in ``command`` stands for."""

    name: str
    command: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    #: Part of the error: the file or the place.
    says: str = ""
    codes: tuple[int, ...] = (2,)
    may_pass: bool = False


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def places(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Yield every place in a JSON value; of a list only the first element."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))


def replaced(value: Any, at: Path_, new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = new
    return changed


def without(value: Any, at: Path_) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for step in at[:-1]:
        inner = inner[step]
    del inner[at[-1]]
    return changed


def broken_bytes(good: bytes) -> dict[str, bytes]:
    """Return what can happen to any JSON file on its way."""
    return {
        "empty": b"",
        "cut in half": good[: len(good) // 2],
        "cut by one": good.rstrip()[:-1],
        "zeros": bytes(len(good)),
        "not UTF-8": good.replace(b'"', b'"\xff\xfe', 1),
        "nested deep": DEEP.encode(),
        "objects nested deep": b'{"a":' * 100_000,
        "another root": b"[1, 2, 3]",
        "a number": b"7",
        "null": b"null",
        "a huge number": b'{"schema_version": ' + b"9" * 5000 + b"}",
        "twice": good + good,
        "HTML": b"<html><body>404 not found</body></html>",
    }


def json_mutations(good: Any, *, free: frozenset[str], optional: frozenset[str]) -> Iterator[tuple[str, Any, bool]]:
    """Yield name, value and whether it may still be good, for every place of a JSON file.

    Below the keys in ``free`` anything may stand; what ends in a key of ``optional`` may be left out.
    """
    for at in places(good):
        label = ".".join(map(str, at))
        lenient = bool(free.intersection(map(str, at)))
        yield f"{label}: another type", replaced(good, at, ODD), lenient
        # One more of these four at each place: all of them would take minutes and find the same.
        kinds = ("beyond all bounds", "NaN", "control characters", "taken out")
        kind = kinds[len(label) % 4]
        values: dict[str, Any] = {"beyond all bounds": 10**400, "NaN": float("nan"), "control characters": STEERING}
        if kind in values:
            yield f"{label}: {kind}", replaced(good, at, values[kind]), True
        elif isinstance(at[-1], str):
            yield f"{label}: taken out", without(good, at), lenient or at[-1] in optional


@cache
def good_run() -> tuple[Any, bytes]:
    """Return run.json and samples.jsonl of a small run."""
    made = make_run([Speed(model="mu", family="encoder-decoder", output_tokens=4), Speed(output_tokens=4)])
    lines = b"".join(line.model_dump_json().encode() + b"\n" for line in made.lines)
    return json.loads(made.record.model_dump_json()), lines


def run_files(record: Any = None, samples: bytes | None = None) -> dict[str, bytes]:
    good, lines = good_run()
    raw = record if isinstance(record, bytes) else text(good if record is None else record)
    return {"run/run.json": raw, "run/samples.jsonl": lines if samples is None else samples}


TABLE = ("table", "{}/run", "--json")
_RUN_FREE = frozenset({"machines", "versions", "options", "limits", "outcomes", "command"})
_CASE_OPTIONAL = frozenset(
    name
    for model in (Workload, Case, ArtifactSpec, Checkpoint)
    for name, field in model.model_fields.items()
    if not field.is_required()
)
_RUN_OPTIONAL = _CASE_OPTIONAL | frozenset(
    {"finished", "command", "suite", "pairs", "machines", "versions", "options", "limits", "blocks", "outcomes",
     "schema_version", "artifact_id", "decode_weight_bytes", "layout", "revision",
      "has_tokenizer", "decoder_start_token_id", "eos_token_ids", "pad_token_id",
     "shared_embedding", "merged_attention", "windows", "encoder_windows", "max_input_tokens", "max_total_tokens",
     "layer_kinds", "weights"}
)  # fmt: skip


def runs() -> Iterator[Broken]:
    """Yield broken run.json files."""
    good, _ = good_run()
    for name, raw in broken_bytes(text(good)).items():
        yield Broken(f"run.json {name}", TABLE, run_files(raw), "run.json")
    for version in (0, -1, 2, 10**9, True, 1.5, "1", None):
        yield Broken(f"run.json of schema {version}", TABLE, run_files({**good, "schema_version": version}), "schema")
    for name, value, may_pass in json_mutations(good, free=_RUN_FREE, optional=_RUN_OPTIONAL):
        yield Broken(f"run.json {name}", TABLE, run_files(value), "run/", (2, 3), may_pass)


def samples() -> Iterator[Broken]:
    """Yield broken samples.jsonl files, read by `table` and by `compare`."""
    _good, lines = good_run()
    rows = lines.splitlines(keepends=True)
    at, first = next((i, json.loads(row)) for i, row in enumerate(rows) if b'"sample"' in row)
    load = json.loads(rows[0])

    def changed(index: int, row: bytes) -> bytes:
        return b"".join([*rows[:index], row, *rows[index + 1 :]])

    for name, raw in broken_bytes(rows[at].rstrip()).items():
        if name not in ("empty", "a huge number"):
            yield Broken(f"samples.jsonl {name}", TABLE, run_files(None, changed(at, raw + b"\n")), "samples.jsonl:")
    for row, index, what in ((first, at, "sample"), (load, 0, "load")):
        for name, value, may_pass in json_mutations(row, free=frozenset({"conditions", "phases_ns", "nodes"}),
                                                    optional=frozenset(row)):  # fmt: skip
            command = ("compare", "{}/run", "{}/run") if "NaN" in name else TABLE
            yield Broken(f"{what}: {name}", command, run_files(None, changed(index, text(value) + b"\n")),
                         "samples.jsonl:", (2, 3), may_pass or what == "sample")  # fmt: skip
    stamps = {
        "none": [], "zero": [0, 1, 2, 3], "negative": [-5, 1, 2, 3], "backwards": [9, 5, 6, 7], "in no time": [5] * 4,
        "beyond 64 bits": [1, 2, 3, 2**70], "fractions": [1.5, 2.5, 3.5, 4.5], "words": ["a", "b", "c", "d"],
        "an object": {"0": 1}, "infinite": [1, 2, 3, float("inf")], "a string": "1234", "nested": [[1], [2]],
    }  # fmt: skip
    for name, value in stamps.items():
        for command in (TABLE, ("compare", "{}/run", "{}/run")):
            row = text({**first, "token_ns": value}) + b"\n"
            files = run_files(None, changed(at, row))
            yield Broken(f"stamps {name}, {command[0]}", command, files, f"samples.jsonl:{at + 1}")
    strange = text({**first, "case": "nobody|knows|it"}) + b"\n"
    yield Broken("a sample of no case", TABLE, run_files(None, lines + strange), "nobody")
    yield Broken("a folder for samples.jsonl", TABLE, {**run_files(), "run/samples.jsonl/x": b""}, "samples.jsonl")


BASELINE_CHECK = ("check", "--baseline", "{}/baseline.json", "{}/run")


def baselines(good: Any) -> Iterator[Broken]:
    """Yield broken baseline files."""

    def files(raw: bytes) -> dict[str, bytes]:
        return {**run_files(), "baseline.json": raw}

    for name, raw in broken_bytes(text(good)).items():
        yield Broken(f"baseline {name}", BASELINE_CHECK, files(raw), "baseline.json")
    for version in (0, 2, True, None):
        raw = text({**good, "schema_version": version})
        yield Broken(f"baseline of schema {version}", BASELINE_CHECK, files(raw), "schema version")
    free = frozenset({"machine", "versions", "options"})
    optional = _CASE_OPTIONAL | frozenset({"layout", "e2e", "first_inference"})
    for name, value, may_pass in json_mutations(good, free=free, optional=optional):
        yield Broken(f"baseline {name}", BASELINE_CHECK, files(text(value)), "baseline", (1, 2, 3, 4), may_pass)


GOOD_SUITE = """\
name: mine
description: a good one
pairs:
  - [mu-tiny, dec-tiny]
backends: [onnxruntime]
precisions: [fp32]
workloads:
  - input_tokens: [16]
    output_tokens: [4]
threads: 1
repeat: 3
"""


def suites() -> Iterator[Broken]:
    """Yield broken suites: hostile YAML, and good YAML that is no suite."""
    wrong = {
        "empty": "", "a word": "hello", "a list": "- a\n- b\n", "tabs": GOOD_SUITE.replace("  -", "\t-"),
        "an open quote": GOOD_SUITE + 'x: "', "an open bracket": GOOD_SUITE + "x: [1, 2", "a colon": "a: b: c",
        "two documents": GOOD_SUITE + "---\n" + GOOD_SUITE, "a control character": GOOD_SUITE + "x: \x01\n",
        "nested deep": "name: " + "[" * 5000, "mappings nested deep": "a: {" * 5000,
        "an anchor": GOOD_SUITE.replace("[16]", "&a [16]") + "x: *a\n", "an unknown alias": GOOD_SUITE + "x: *no\n",
        "a tag": GOOD_SUITE + "x: !!python/object/apply:os.system [exit]\n", "a merge": GOOD_SUITE + "<<: 1\n",
        "a list as key": GOOD_SUITE + "? [a, b]\n: 1\n", "a mapping as key": GOOD_SUITE + "? {a: b}\n: 1\n",
        "a date as name": GOOD_SUITE.replace("mine", "2020-02-02"),
        "a path as name": GOOD_SUITE.replace("mine", "../x"),
        "an absolute name": GOOD_SUITE.replace("mine", "/etc/x"), "a long name": GOOD_SUITE.replace("mine", "x" * 65),
        "a bad date": GOOD_SUITE + "x: 2020-99-99\n", "UTF-16": GOOD_SUITE.encode("utf-16"), "Latin-1": b"name: \xe9\n",
        "binary": bytes(range(256)), "too large": "#" + "x" * 1_000_001, "an int of 5000 digits": "name: " + "9" * 5000,
        "a billion laughs": "a: &a [x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
                                                   for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "a sexagesimal": GOOD_SUITE.replace("[16]", "[1:2:3:4:5:6:7:8]"),
        "an octal": GOOD_SUITE.replace("[16]", "0100"), "an octal in a list": GOOD_SUITE.replace("[4]", "[4, 010]"),
        "a time of day": GOOD_SUITE.replace("[16]", "1:30"), "a fraction in base 60": GOOD_SUITE + "budget_s: 1:30.5\n",
        "a key twice": GOOD_SUITE + "threads: 2\n", "a key twice in quotes": GOOD_SUITE + '"threads": 2\n',
        "a key twice within": GOOD_SUITE.replace("    output_tokens", "    input_tokens: 8\n    output_tokens"),
        "yes as a count": GOOD_SUITE.replace("[16]", "yes"), "on in a list": GOOD_SUITE.replace("[16]", "[8, on]"),
        "yes as threads": GOOD_SUITE.replace("threads: 1", "threads: yes"),
        "yes as a budget": GOOD_SUITE + "budget_s: yes\n",
        "yes as a factor": GOOD_SUITE + "scales: {small: {input_tokens: yes}}\n",
        "yes as a speedup": GOOD_SUITE + "claims: [{says: a, metric: ttft, speedup: yes, source: b}]\n",
        "a range downwards": GOOD_SUITE.replace("[16]", "64-16"),
        "a range that stands still": GOOD_SUITE.replace("[16]", "64-128*1"),
        "a range beyond memory": GOOD_SUITE.replace("[16]", "1-999999999999"),
        "commas without a number": GOOD_SUITE.replace("[16]", '"16,,32"'),
        "a budget of no unit": GOOD_SUITE + "budget_s: 5 parsecs\n",
        "no checkpoint": GOOD_SUITE.replace("pairs:\n  - [mu-tiny, dec-tiny]\n", ""),
        "a pair of one": GOOD_SUITE.replace("[mu-tiny, dec-tiny]", "[mu-tiny]"),
        "a pair of three": GOOD_SUITE.replace("[mu-tiny, dec-tiny]", "[mu-tiny, dec-tiny, x]"),
        "a swapped pair": GOOD_SUITE.replace("[mu-tiny, dec-tiny]", "[dec-tiny, mu-tiny]"),
        "an unknown model": GOOD_SUITE.replace("dec-tiny", "dec-tinny"),
        "a model of control characters": GOOD_SUITE.replace("dec-tiny", '"dec\\e[31m"'),
        "an unknown backend": GOOD_SUITE.replace("onnxruntime", "onnxrntime"),
        "an unknown precision": GOOD_SUITE.replace("fp32", "fp31"),
        "cases beyond count": GOOD_SUITE.replace("[16]", str(list(range(1, 2001)))).replace(
            "[4]", str(list(range(1, 2001)))),
        "workloads beyond memory": GOOD_SUITE.replace("[16]", str(list(range(1, 40_000)))).replace(
            "[4]", str(list(range(1, 40_000)))),
    }  # fmt: skip
    for name, content in wrong.items():
        raw = content if isinstance(content, bytes) else content.encode()
        yield Broken(f"suite {name}", ("run", "--suite", "{}/s.yaml", "--dry-run"), {"s.yaml": raw})
    values = (
        "",
        "-1",
        "0",
        "1.5",
        "true",
        "null",
        "x",
        "[]",
        "{a: 1}",
        "[[1]]",
        "1e400",
        ".nan",
        "99999999999999999999",
    )
    keys = ("name", "pairs", "checkpoints", "backends", "devices", "precisions", "workloads", "exporter", "attention",
            "threads", "budget_s", "repeat", "crossover", "scales")  # fmt: skip
    fine = {("checkpoints", "[]"), ("scales", "{}")}
    for key in keys:
        for value in values:
            kept = [line for line in GOOD_SUITE.splitlines() if not line.startswith(key)]
            body = "\n".join(kept) if key not in ("pairs", "workloads") else _without_block(key)
            raw = f"{body}\n{key}: {value}\n".encode()
            may_pass = (key, value) in fine or key in ("name", "threads", "budget_s", "repeat", "crossover", "scales")
            command = ("run", "--suite", "{}/s.yaml", "--dry-run")
            yield Broken(f"suite {key}: {value}", command, {"s.yaml": raw}, may_pass=may_pass, codes=(2, 5))
    for key in ("nmae", "workload", "Pairs", "input_tokens", "__class__", "name ", "\u202ename"):
        yield Broken(f"suite with {key!r}", ("suites", "show", "{}/s.yaml"),
                     {"s.yaml": (GOOD_SUITE + f'"{key}": 1\n').encode()}, "s.yaml:12")  # fmt: skip


def _without_block(key: str) -> str:
    lines, out, skipping = GOOD_SUITE.splitlines(), [], False
    for line in lines:
        skipping = line.startswith(key) or (skipping and line.startswith(" "))
        if not skipping:
            out.append(line)
    return "\n".join(out)


def gates() -> Iterator[Broken]:
    """Yield broken gates files."""
    bomb = "a: &a [x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
                                   for a, b in zip("abcdefgh", "bcdefghi", strict=True))  # fmt: skip
    wrong = {
        "empty": b"", "a list": b"- 1\n", "a word": b"x\n", "not YAML": b"gate: [5%\n", "unknown key": b"gaet: 5%\n",
        "no share": b"gate: five\n", "negative": b"gate: -5%\n", "zero": b"gate: 0\n", "infinite": b"gate: .inf\n",
        "a list as gate": b"gate: [5%]\n", "unknown metric": b"metrics: {ttfft: 5%}\n", "alpha": b"alpha: 50%\n",
        "cases": b"cases: 5\n", "cases of lists": b"cases: {a: [1]}\n", "control": b"gate: \x01\n",
        "tabs": b"\tgate: 1\n",
        "deep": b"gate: " + b"[" * 5000, "deep mappings": b"a: {" * 5000, "UTF-16": "gate: 5%".encode("utf-16"),
        "binary": bytes(range(256)), "an alias": b"gate: &a 5%\nalpha: *a\n", "bomb": bomb.encode(),
        "a bomb as key": (bomb + "? *i\n: 1\n").encode(), "unknown alias": b"gate: *x\n",
        "huge": b"#" + b"x" * 2_000_000,
        "an octal": b"gate: 010\n", "a key twice": b"gate: 5%\ngate: 6%\n", "yes": b"metrics: {ttft: yes}\n",
        "an escape as key": b'"\\e[31mx": 1\n', "two documents": b"gate: 5%\n---\ngate: 6%\n",
    }  # fmt: skip
    for name, raw in wrong.items():
        command = ("check", "--baseline", "{}/run", "{}/run", "--gates", "{}/gates.yaml")
        yield Broken(f"gates {name}", command, {**run_files(), "gates.yaml": raw}, "gates.yaml")


def options() -> Iterator[Broken]:
    """Yield command lines that nobody should type."""
    run = ("run", "--model", "mu-tiny", "--dry-run")
    absurd = ("0", "-1", "99999999999999999999", "1e9", "nan", "inf", "", "x", "1.5")
    for flag in ("--input-tokens", "--output-tokens", "--batch", "--threads", "--repeat", "--budget",
                 "--interval-target", "--seed"):  # fmt: skip
        for value in absurd:
            may_pass = flag in ("--seed", "--budget", "--interval-target", "--repeat", "--batch")
            yield Broken(f"run {flag} {value!r}", (*run, flag, value), codes=(2, 5), may_pass=may_pass)
    for flag in ("--input-tokens", "--output-tokens", "--batch", "--answers"):
        for value in (",", "8,", ",8", "8,,9", "8,x", "9-8", "8-9-10", "0-8", "8-16*1", "8-16+0", "8-16/2", "-8", "8-",
                      "1-999999999999", "8-9999999999*2,x", "9" * 5000, "1-" + "9" * 5000, "8;9",
                      "\u0668"):  # fmt: skip
            yield Broken(f"run {flag} {value[:20]!r}", (*run, flag, value))
    for value in ("5x", "s", "5 s", "-5s", "0s", "1h30", "1e999s", "nans", "5m5", "\u0665s"):
        yield Broken(f"run --budget {value!r}", (*run, "--budget", value))
        yield Broken(f"check --budget {value!r}", ("check", "--baseline", "{}/run", "{}/run", "--budget", value),
                     run_files())  # fmt: skip
    words = ("", " ", "\x1b[31m", "../../x", "/etc/passwd", "a" * 5000, "-", "--", "\u202e", "<b>", "[red]x[/]", "%s%n")
    for flag in ("--model", "--pair", "--suite", "--scale", "--device", "--backend", "--precision", "--exporter",
                 "--attention", "--option", "--arm", "--prompts", "--resume", "--revision"):  # fmt: skip
        for value in words:
            # An empty word is no path and no name, and click takes it for no value.
            may_pass = value in ("", " ", "-") or flag == "--revision"
            yield Broken(f"run {flag} {value[:12]!r}", (*run, flag, value), codes=(2, 5), may_pass=may_pass)
    for command in ("table", "compare", "check", "baseline", "history", "explain", "export", "models", "suites",
                    "devices", "limits", "doctor", "calibrate", "cache"):  # fmt: skip
        yield Broken(f"{command} --nonsense", (command, "--nonsense"))
    for sides in (["{}"], ["{}", "{}"], ["/no/such", "/no/such"], ["{}/run", "/no/such"], ["{}/run@arm", "{}/run"]):
        yield Broken(f"compare {sides}", ("compare", *sides), run_files(), codes=(2, 3))
    for flag in ("--metric", "--where", "--sort", "--group", "--columns", "--gate", "--format", "--arms"):
        for value in ("", "x\x1b[31m", "nan", "=", "a" * 500):
            yield Broken(f"compare {flag} {value[:6]!r}", ("compare", "{}/run", "{}/run", flag, value), run_files(),
                         codes=(2, 3), may_pass=value == "")  # fmt: skip
    for value in ("", "x", "-5%", "nan", "inf", "0", "1e999", "5%%", "1000000%"):
        yield Broken(f"check --gate {value}", ("check", "--baseline", "{}/run", "{}/run", "--gate", value), run_files())


def good_manifest(folder: Path) -> Any:
    """Return a manifest as slmbench writes it, of an artifact with one file of five bytes."""
    import hashlib

    checkpoint = checkpoint_of_folder(make_folder(folder))
    made = Manifest(
        artifact_id="0" * 32,
        spec=ArtifactSpec(format="onnx"),
        checkpoint=checkpoint,
        graphs={"model": "model.onnx"},
        files=({"path": "model.onnx", "size_bytes": 5, "sha256": hashlib.sha256(b"graph").hexdigest()},),
        attention="none",
        decode_weight_bytes=1,
        versions={"onnx": "1"},
        created="2026-01-01",
        export_seconds=1.0,
    )
    return json.loads(made.model_dump_json())


def manifests(good: Any) -> Iterator[Broken]:
    """Yield artifacts with broken manifests, in the store."""

    def files(raw: bytes) -> dict[str, bytes]:
        folder = f"cache/artifacts/{good['artifact_id']}"
        return {f"{folder}/{MANIFEST_NAME}": raw, f"{folder}/model.onnx": b"graph"}

    command = ("cache", "verify", "--json")
    for name, raw in broken_bytes(text(good)).items():
        yield Broken(f"manifest {name}", command, files(raw), "damaged", (5,))
    for version in (0, 2, None, True, "1"):
        raw = text({**good, "schema_version": version})
        yield Broken(f"manifest of schema {version!r}", command, files(raw), "damaged", (5,))
    for name, path in {"up": "../x", "absolute": "/etc/passwd", "up and down": "a/../../x", "a NUL": "a\0b",
                       "empty": "", "Windows": "..\\x", "a drive": "C:/x"}.items():  # fmt: skip
        for at in (("graphs", "model"), ("files", 0, "path")):
            raw = text(replaced(good, at, path))
            yield Broken(f"manifest path {name} in {at[0]}", command, files(raw), "damaged", (5,))
    optional = _CASE_OPTIONAL | frozenset(
        {"schema_version", "weight_precision", "exporter", "input_tokens", "output_tokens", "target", "revision",
          "has_tokenizer", "decoder_start_token_id", "eos_token_ids", "pad_token_id", "shared_embedding",
         "merged_attention", "windows", "encoder_windows", "max_input_tokens", "max_total_tokens", "cross_kv_once",
         "model", "weights", "layer_kinds"}
    )  # fmt: skip
    for name, value, may_pass in json_mutations(good, free=frozenset({"versions"}), optional=optional):
        yield Broken(f"manifest {name}", command, files(text(value)), "damaged", (5,), may_pass)
