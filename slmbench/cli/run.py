"""``slmbench run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from slmbench.cli._typed import COUNTS, NAMES, SECONDS, SETTINGS
from slmbench.errors import BadInputError, ExitCode, one_line

if TYPE_CHECKING:
    from slmbench.plan.request import RunRequest

#: Options by the names they had in version 0.2; they work until 0.4 and are in no help text.
OLD_OPTIONS = {"samples": "answers", "precision-target": "interval-target"}

app = typer.Typer(add_completion=False)

Names: TypeAlias = list[str]
Counts: TypeAlias = list[str]


_what: Callable[..., Any] = partial(typer.Option, rich_help_panel="What to measure")
_pictures: Callable[..., Any] = partial(typer.Option, rich_help_panel="Pictures")
_quality: Callable[..., Any] = partial(typer.Option, rich_help_panel="Quality and tasks")
_how: Callable[..., Any] = partial(typer.Option, rich_help_panel="How to measure")
_until: Callable[..., Any] = partial(typer.Option, rich_help_panel="How long to measure")
_where: Callable[..., Any] = partial(typer.Option, rich_help_panel="Where things come from and go")
_fleet: Callable[..., Any] = partial(typer.Option, rich_help_panel="On many machines")

Answers = Annotated[
    Counts | None,
    _what(help="Answers to generate for each prompt; the prompt is processed once.", **COUNTS),
]
IntervalTarget = Annotated[
    float | None,
    _until(help="Stop when every 95 % interval is within +/- this many percent.", show_default="ttft 3, tpot 2"),
]
Quick = Annotated[bool, _until("--quick", help="Measure for 40 s, or until each case has a figure: wide intervals.")]
TrustRemoteCode = Annotated[bool, _where("--trust-remote-code", help="Run Python code that comes with the checkpoint.")]
ConvertPickles = Annotated[
    bool, _where("--convert-pickles", help="Turn weights that are pickles into safetensors, once.")
]
Dequantize = Annotated[
    bool, _where("--dequantize", help="Turn quantised weights (fp8, ...) into full precision, once.")
]
Arms = Annotated[
    Names | None,
    _how(help="Compare Python environments: give --arm NAME=path/to/python two or more times.", **SETTINGS),
]
NoShare = Annotated[
    bool, _how("--no-share", help="Load the model again for each length, and generate each output length by itself.")
]
Precisions = Annotated[
    Names | None, _what(help="WEIGHTS or WEIGHTS/COMPUTE, such as int8/bf16; on an NPU fp16 by default.", **NAMES)
]
Simulate = Annotated[
    bool,
    _how("--simulate", help="Emulate the NPU on the CPU: checks tokens and placement, measures no times."),
]
Recipe = Annotated[
    str | None,
    _how(
        help="How weights are quantised: plain, optimum[:ORG/NAME] (,text=FILE: your text) or genai:KEY=VALUE,...",
        show_default="plain",
    ),
]
Reference = Annotated[
    str | None,
    _how(help="With a model file of yours: the checkpoint to compare its tokens with (torch, fp32)."),
]
Settings = Annotated[
    Names | None,
    _how(help="fair: the asked precision everywhere; shipped: each engine's defaults.", show_default="fair", **NAMES),
]
Pairs = Annotated[
    Names | None,
    _what(help="ENCODER-DECODER,DECODER-ONLY: two models to compare (docs/suites.md: also ,decoder or ,quality)."),
]
PromptFile = Annotated[Path | None, _what(help="File of text prompts: one per line, or JSON lines. Adds ttft_text.")]
Images = Annotated[Counts | None, _pictures(help="Pictures before each text, drawn at random.", **COUNTS)]
ImageSize = Annotated[
    Names | None, _pictures(help="WIDTHxHEIGHT of drawn pictures.", show_default="512x512", metavar="WxH", **NAMES)
]
Image = Annotated[
    Path | None,
    _pictures(help="A picture, a folder of pictures, or JSON lines with a prompt and an image each."),
]
Mmproj = Annotated[
    Path | None,
    _pictures(help="With a GGUF file of yours: its projector file.", show_default="mmproj*.gguf next to it"),
]
QualityText = Annotated[
    list[Path] | None,
    _quality(help="Measure quality too, on this text (.txt, or .jsonl with a document a line). Repeatable."),
]
Quality = Annotated[bool, _quality("--quality", help="Measure quality too, on the text that comes with slmbench.")]
TaskFile = Annotated[
    Path | None, _quality(help="File of tasks to answer and score, one JSON object per line (docs/tasks.md).")
]
MaxNewTokens = Annotated[int | None, _quality(min=1, help="Longest answer to a task.", show_default="256")]
Verbose = Annotated[
    bool, _where("--verbose", "-v", help="Print each step as a line: choices, proofs, intervals so far.")
]
DryRun = Annotated[bool, _where("--dry-run", help="Print the cases and how long they would take; measure nothing.")]
EachMachine = Annotated[
    bool, _fleet("--each-machine", help="Every machine measures all cases; equal machines do not share them.")
]


@app.command(context_settings={"token_normalize_func": lambda name: OLD_OPTIONS.get(name, name)})
def run(
    model: Annotated[Names | None, _what(help="Catalog names, folders, Hub ids, or a file you have.", **NAMES)] = None,
    pair: Pairs = None,
    suite: Annotated[str | None, _what(help="A suite's name or YAML file.", show_default="quick")] = None,
    scale: Annotated[str | None, _what(help="A smaller version of the suite, such as small.")] = None,
    device: Annotated[Names | None, _what(help="cpu, gpu or npu.", **NAMES)] = None,
    backend: Annotated[Names | None, _what(help="openvino, onnxruntime, ...", **NAMES)] = None,
    precision: Precisions = None,
    input_tokens: Annotated[Counts | None, _what(help="Length of the prompt.", **COUNTS)] = None,
    output_tokens: Annotated[Counts | None, _what(help="Tokens to generate.", **COUNTS)] = None,
    batch: Annotated[Counts | None, _what(help="Prompts at once.", **COUNTS)] = None,
    answers: Answers = None,
    prompts: PromptFile = None,
    images: Images = None, image_size: ImageSize = None, image: Image = None,
    quality_text: QualityText = None,
    quality: Quality = False,
    tasks: TaskFile = None,
    max_new_tokens: MaxNewTokens = None,
    threads: Annotated[int | None, _how(min=1, help="Threads of the engine.", show_default="physical cores")] = None,
    exporter: Annotated[str | None, _how(help="auto, slmbench, generic, optimum or genai.")] = None,
    recipe: Recipe = None,
    reference: Reference = None, mmproj: Mmproj = None,
    attention: Annotated[str | None, _how(help="best, all, or the name of one path (paged, SDPA, ...).")] = None,
    settings: Settings = None,
    option: Annotated[Names | None, _how(help="KEY=VALUE for the backend.", **SETTINGS)] = None,
    repeat: Annotated[int | None, _until(min=1, help="A fixed number of samples per case.")] = None,
    budget: Annotated[float | None, _until(help="Stop measuring after this time: 90, 20s, 5m, 1h.", **SECONDS)] = None,
    quick: Quick = False,
    interval_target: IntervalTarget = None,
    seed: Annotated[int, _how(help="Random seed: prompts and the order of cases.")] = 0,
    arm: Arms = None,
    no_share: NoShare = False,
    simulate: Simulate = False,
    out: Annotated[Path | None, _where(help="The run's folder.", show_default="results/DATE-SUITE")] = None,
    resume: Annotated[Path | None, _where(help="Continue the run in this folder.")] = None,
    revision: Annotated[str | None, _where(help="Hub revision (with exactly one --model).")] = None,
    offline: Annotated[bool, _where("--offline", help="Use Hub models from the cache only.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    convert_pickles: ConvertPickles = False, dequantize: Dequantize = False,
    dry_run: DryRun = False,
    fleet: Annotated[str | None, _fleet(help="Measure on a fleet: the address of its scheduler, or local.")] = None,
    where: Annotated[str | None, _fleet(help="device=cpu, gpu or npu: only machines that have one.")] = None,
    machines: Annotated[Names | None, _fleet(help="Only these machines.", **NAMES)] = None,
    each_machine: EachMachine = False,
    certs: Annotated[Path | None, _fleet(help="Folder of certificates made by `slmbench fleet certs`.")] = None,
    insecure: Annotated[bool, _fleet("--insecure", help="Allow unencrypted TCP to other machines.")] = False,
    strict: Annotated[bool, _how("--strict", help="Exit 5 also for what cannot run here.")] = False,
    quiet: Annotated[bool, _where("--quiet", "-q", help="Print the table and errors, no progress.")] = False,
    verbose: Verbose = False,
    as_json: Annotated[bool, _where("--json", help="Print the table as JSON.")] = False,
) -> None:  # fmt: skip
    """Measure models and write a comparison table.

    Without options: the quick suite, a pair of 57M models on OpenVINO on the CPU.

    Options that take lists can be repeated, or take commas: --backend openvino,torch. Numbers may be ranges:
    --input-tokens 64-256+64 is 64,128,192,256, and 128-1024*2 is 128,256,512,1024.
    """
    given = locals()
    raise typer.Exit(_carry_out(_request(given), given))


def _carry_out(request: RunRequest, given: Mapping[str, Any]) -> int:
    """Measure here or on a fleet, or say what would be measured; return the exit code."""
    dry_run, as_json, strict = given["dry_run"], given["as_json"], given["strict"]
    if given["quiet"] and given["verbose"]:
        raise BadInputError("--quiet and --verbose cannot be used together")
    if given["fleet"] is None:
        if any(given[name] for name in ("where", "machines", "certs", "insecure", "each_machine")):
            raise BadInputError("--where, --machines, --each-machine, --certs and --insecure go with --fleet")
        from slmbench.running.runner import resumed

        request = resumed(request)
        if dry_run:
            return _preview(request, as_json)
        return _execute(request, as_json, strict=strict, quiet=given["quiet"], verbose=given["verbose"])
    from slmbench.cli.fleet import run_fleet
    from slmbench.plan.request import check_one_machine

    check_one_machine(request)
    if given["quiet"] or given["verbose"]:
        raise BadInputError("--quiet and --verbose are for one machine")
    if dry_run:
        raise BadInputError("--dry-run is for one machine; `slmbench fleet status` shows a fleet's")
    names = ("fleet", "where", "machines", "certs", "insecure", "as_json", "each_machine", "strict")
    return run_fleet(request, *(given[name] for name in names))


def _request(given: Mapping[str, Any]) -> RunRequest:
    """Return the options as a request; those of the same name are copied."""
    from slmbench.plan.request import RunRequest

    renamed = {"model": "models", "device": "devices", "backend": "backends", "precision": "precisions"}
    renamed |= {"budget": "budget_s"}
    asked = {renamed.get(name, name): value for name, value in given.items() if value is not None}
    asked["pairs"] = [_pair(text) for text in given["pair"] or ()]
    for flag, field in (("option", "backend_options"), ("arm", "arms")):
        asked[field] = [key_value(text, f"--{flag}") for text in given[flag] or ()]
    asked["share_loads"] = not given["no_share"]
    if given["interval_target"] is not None:
        asked["interval_target"] = given["interval_target"] / 100
    if given["image_size"]:
        asked["image_size"] = _sizes(given["image_size"])
    return RunRequest.model_validate({name: value for name, value in asked.items() if name in RunRequest.model_fields})


def _sizes(texts: Names) -> object:
    """Return the sizes of pictures.

    Raises:
        BadInputError: a text is none.
    """
    from slmbench.plan.typed_lists import sized

    try:
        return sized(texts)
    except ValueError as error:
        raise BadInputError(f"--image-size {error}") from error


def _execute(request: RunRequest, as_json: bool, *, strict: bool, quiet: bool, verbose: bool) -> int:
    import sys

    from slmbench.analysis.task_scores import unanswered
    from slmbench.report.csv_text import json_rows
    from slmbench.report.run_table import table_rows
    from slmbench.report.text_table import make_console
    from slmbench.report.write import print_run
    from slmbench.running.watched import execute_watched

    columns = execute_watched(request, quiet=quiet, verbose=verbose)
    rows = table_rows(columns)
    if as_json:
        typer.echo(json_rows(rows))
    else:
        print_run(make_console(), columns, rows)
        said = [f"everything is in {columns.folder}"]
        if request.quick:
            said[:0] = [
                "--quick: few loads, so intervals are wide or missing; the same command without it narrows them"
            ]
        for line in () if quiet else said:
            print(one_line(line), file=sys.stderr, flush=True)
    # What has no figures because its budget was spent is named there, too.
    tasks = columns.record.tasks
    refused = columns.record.refusals or (tasks and tasks.refused)
    failed = any(row["failure"] for row in rows) or unanswered(columns) or (strict and refused)
    return ExitCode.FAILED if failed else ExitCode.OK


def _preview(request: RunRequest, as_json: bool) -> int:
    import json

    from slmbench.cli._preview import print_estimate
    from slmbench.plan.asked_tasks import plan_tasks
    from slmbench.plan.exports_here import check_references
    from slmbench.plan.quality import plan_quality
    from slmbench.running.estimate import estimate
    from slmbench.running.evaluation_costs import evaluation_costs
    from slmbench.running.left import nothing_left, what_is_left
    from slmbench.running.past_costs import read_past_costs
    from slmbench.running.runner import measure_settings, plan_here

    plan, _ = plan_here(request)
    past, settings = read_past_costs(), measure_settings(request, plan.suite)
    quality, asked = plan_quality(request, plan), plan_tasks(plan, request.resume)
    check_references(request, quality)
    left = what_is_left(plan, request.resume, settings, quality, asked) if request.resume else None
    more = evaluation_costs(quality, asked, past, left.evaluation if left else None)
    costs = estimate(plan, settings, past, left.cases if left else None)
    if as_json:
        whole = costs.model_dump(mode="json") | {"evaluation": more.model_dump(mode="json")}
        typer.echo(json.dumps(whole, indent=1))
    elif left and left.nothing and request.resume:
        print(one_line(nothing_left(request.resume)))
    else:
        print_estimate(costs, more, quick=request.quick, typed=request.resume is None)
    return ExitCode.OK


def _pair(text: str) -> object:
    """Return the parts of ``A,B`` or ``A,B,PAIRING``.

    Raises:
        BadInputError: it is not of that form.
    """
    from slmbench.plan.typed_lists import paired

    try:
        return paired(text)
    except ValueError as error:
        raise BadInputError(f"--pair {text}: {error}") from error


def key_value(text: str, flag: str) -> tuple[str, str]:
    """Return both sides of ``KEY=VALUE``.

    Raises:
        BadInputError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise BadInputError(f"{flag} {text}: KEY=VALUE is expected")
    return key, value
