"""From a request to a plan: what is asked for, resolved and checked, before anything is exported or measured."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slmbench.case import FORMERLY_SAMPLES
from slmbench.errors import BadInputError, nearest
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.given_record import default_backend
from slmbench.plan.asked_checks import check_reference, check_text_alone
from slmbench.plan.asked_prompts import AskedPrompts, asked_prompts
from slmbench.plan.given_pictures import with_projectors
from slmbench.plan.planner import Plan, PlanOptions, make_plan
from slmbench.plan.sent_files import Carried
from slmbench.plan.suite import Suite, load_suite, parse_suite
from slmbench.plan.typed_lists import paired, sized
from slmbench.plan.workload_sweep import WorkloadSweep
from slmbench.system.files import has_path_bytes
from slmbench.system.yaml_reader import MAX_FILE_BYTES
from slmbench.terms import Exporter, Format, PairNames, Precision

DEFAULT_SUITE = "quick"
#: What models run on that somebody names without a suite, or backends.
OWN_BACKENDS = ["openvino", "openvino_genai", "onnxruntime"]
#: Seconds that models are measured which somebody names without a suite.
NAMED_BUDGET_S = 60.0
#: Seconds that ``--quick`` measures: with the report, a run of the default pair ends within a minute after its exports.
QUICK_BUDGET_S = 40.0
#: Options whose names differ from the suite's keys that they replace.
_FLAGS = {
    "checkpoints": "model",
    "pairs": "pair",
    "backends": "backend",
    "devices": "device",
    "precisions": "precision",
    "budget_s": "budget",
    "models": "model",
    "backend_options": "option",
    "arms": "arm",
    "share_loads": "no-share",
}


class RunRequest(BaseModel):
    """What a user asks for; what is empty comes from the suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Options that run somebody's code, and what they do. They count only when they are typed: a baseline, a results
    #: folder or a message to a fleet's machine may come from a stranger.
    RUN_CODE: ClassVar[Mapping[str, str]] = {
        "arms": "start other Python interpreters",
        "trust_remote_code": "run a checkpoint's own code",
    }

    models: tuple[str, ...] = ()
    pairs: tuple[Annotated[PairNames, BeforeValidator(paired)], ...] = ()
    suite: str | None = None
    scale: str | None = None
    devices: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    input_tokens: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    answers: tuple[int, ...] = Field(default=(), validation_alias=FORMERLY_SAMPLES)
    prompts: Path | None = None
    #: Pictures before each text that are drawn, and in which sizes (width, height).
    images: tuple[int, ...] = ()
    image_size: Annotated[tuple[tuple[int, int], ...], BeforeValidator(sized)] = ()
    #: Pictures of the user instead: a file, a folder, or JSON lines with a text each.
    image: Path | None = None
    #: Files of text that quality is measured on; with ``quality`` alone, the text that comes with slmbench.
    quality_text: tuple[Path, ...] = ()
    quality: bool = False
    #: A file of tasks to answer, and how many tokens an answer may have.
    tasks: Path | None = None
    max_new_tokens: int | None = None
    threads: int | None = None
    exporter: str | None = None
    recipe: str | None = None
    #: The checkpoint whose tokens the user's artifacts are compared with.
    reference: str | None = None
    #: The projector file of the user's GGUF file; None: the one next to it.
    mmproj: Path | None = None
    #: The exporter by format and precision, where ``exporter`` is open: what a baseline was measured with.
    routes: tuple[tuple[Format, Precision, Exporter], ...] = ()
    attention: str | None = None
    #: "fair", "shipped", or both.
    settings: tuple[str, ...] = ()
    backend_options: tuple[tuple[str, str], ...] = ()
    repeat: int | None = None
    #: Whether one load serves all workloads of a configuration.
    share_loads: bool = True
    budget_s: float | None = None
    #: Measure for :data:`QUICK_BUDGET_S` at most, with as wide intervals as that gives.
    quick: bool = False
    #: Half-width of the 95 % intervals, as a share; version 0.2 called it the precision target.
    interval_target: float | None = Field(
        default=None, validation_alias=AliasChoices("interval_target", "precision_target")
    )
    seed: int = 0
    arms: tuple[tuple[str, str], ...] = ()
    simulate: bool = False
    out: Path | None = None
    resume: Path | None = None
    revision: str | None = None
    offline: bool = False
    trust_remote_code: bool = False
    #: Convert weights that a checkpoint has as pickles alone, loading tensors and nothing else.
    convert_pickles: bool = False
    #: Have transformers turn quantised weights into full precision.
    dequantize: bool = False
    #: Checkpoints that another machine resolved, by the name they are asked for; they need not be on this one.
    checkpoints: tuple[tuple[str, Checkpoint], ...] = ()
    #: Keys of the cases to measure of all that the request plans, in one part of a shared run; empty for all.
    only_cases: tuple[str, ...] = ()
    #: The text of the suite's file, where that is on another machine; ``suite`` names it in errors.
    suite_text: str | None = Field(default=None, max_length=MAX_FILE_BYTES)
    #: Another machine's prompts (``prompts`` names them in errors) and tokenizers, as they lie in this one's cache.
    carried: tuple[Carried, ...] = ()

    def code_flags(self, *names: str) -> str:
        """Return the options of :data:`RUN_CODE` that are set (or those of these names), as one types them."""
        flags = {
            "arms": [f"--arm {shlex.quote(f'{name}={python}')}" for name, python in self.arms],
            "trust_remote_code": ["--trust-remote-code"] if self.trust_remote_code else [],
        }
        return " ".join(flag for name in names or flags for flag in flags[name])


def request_from_file(options: Mapping[str, Any], source: str, typed: RunRequest) -> RunRequest:
    """Return the request that a run or baseline was made with. What runs code and where to write are as ``typed``.

    Raises:
        BadInputError: the options are not valid, or they run code and nobody typed that.
    """
    try:
        text = json.dumps({**options, "resume": None, "out": None})
        if has_path_bytes(text):
            asked = RunRequest.model_validate({**json.loads(text), "checkpoints": ()})
        else:
            # As JSON: a checkpoint may not bring a path or its trust along.
            asked = RunRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{source}: options: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    check_typed(asked, source, typed)
    kept = (*RunRequest.RUN_CODE, "resume", "out")
    return asked.model_copy(update={name: getattr(typed, name) for name in kept})


def check_typed(asked: RunRequest, source: str, typed: RunRequest) -> None:
    """Refuse a request from a file that runs code, unless the same option was typed.

    Raises:
        BadInputError: it does; the message names the option.
    """
    for name, what in RunRequest.RUN_CODE.items():
        if getattr(asked, name) and not getattr(typed, name):
            raise BadInputError(
                f"{source}: asks to {what}, which is never done because a file says so; "
                f"if you trust it, add {asked.code_flags(name)}"
            )


def resume_command(folder: Path, request: RunRequest) -> str:
    """Return what to type to continue a run."""
    return f"slmbench run --resume {shlex.quote(str(folder))} {request.code_flags()}".rstrip()


def requested_suite(request: RunRequest) -> Suite:
    """Return the suite that the request asks for, with its overrides applied.

    Raises:
        BadInputError: the suite or an override is wrong.
    """
    name, text = request.suite or DEFAULT_SUITE, request.suite_text
    base = load_suite(name) if text is None else parse_suite(text, name)
    if request.scale:
        base = base.scaled(request.scale)
    update: dict[str, object] = {}
    if request.models or request.pairs:
        update |= {"checkpoints": list(request.models), "pairs": list(request.pairs)}
        if not request.suite:
            update |= {"name": "custom", "description": "", "backends": OWN_BACKENDS, "interval_target": None}
            update["budget_s"] = NAMED_BUDGET_S
    if request.quick and (request.budget_s is not None or request.repeat is not None):
        raise BadInputError(f"--quick is a budget of {QUICK_BUDGET_S:g} s; it does not go with --budget or --repeat")
    direct = {
        "backends": list(request.backends),
        "devices": list(request.devices),
        "precisions": list(request.precisions),
        "settings": list(request.settings),
        "exporter": request.exporter,
        "recipe": request.recipe,
        "threads": request.threads,
        "repeat": request.repeat,
        "budget_s": QUICK_BUDGET_S if request.quick else request.budget_s,
        "tasks": None if request.tasks is None else str(request.tasks),
        "max_new_tokens": request.max_new_tokens,
    }
    update |= {name: value for name, value in direct.items() if value not in (None, [])}
    if request.attention in ("best", "all"):
        update["attention"] = request.attention
    workloads = _overridden(base.workloads, request)
    if workloads != [sweep.model_dump() for sweep in base.workloads]:
        update["workloads"] = workloads
    update |= _for_devices(request)
    if request.max_new_tokens and not (request.tasks or base.tasks):
        raise BadInputError(
            "--max-new-tokens is for answers to --tasks; --output-tokens is the length of timed answers"
        )
    try:
        suite = Suite.model_validate({**base.model_dump(), **update}).with_places_of(base, without=update)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(_option_error(first["loc"], first["input"], first["msg"])) from error
    if request.simulate and set(suite.devices) != {"npu"}:
        raise BadInputError("--simulate emulates an NPU: it goes with --device npu and no other device")
    return suite


def _for_devices(request: RunRequest) -> dict[str, object]:
    """Return what the devices decide where nobody says: every backend for other devices than the CPU, fp16 for NPUs.

    Both vendors take and compute fp16; neither computes in fp32, and Qualcomm takes no such weights.
    """
    found: dict[str, object] = {}
    if set(request.devices) - {"cpu"} and not request.backends:
        from slmbench.backend import backend_names

        found["backends"] = backend_names()
    if set(request.devices) == {"npu"} and not (request.precisions or request.suite):
        found["precisions"] = ["fp16"]
    return found


def flag(field: str) -> str:
    """Return the option of `slmbench run` that a key of the suite or a field of the request stands for."""
    return f"--{_FLAGS.get(field, field.replace('_', '-'))}"


def check_one_machine(request: RunRequest) -> None:
    """Refuse what a fleet does not measure: quality, tasks, the user's pictures. They stay where they are.

    Raises:
        BadInputError: an option or a key of the suite asks for it.
    """
    suite = requested_suite(request)
    why = (
        "is for one machine; a fleet sends no texts, pictures, references or answers from one machine to another. "
        "Give the same command on that machine without --fleet and copy its run's folder back: `slmbench table` and "
        "`compare` take it"
    )
    typed = {"quality": request.quality, "quality_text": request.quality_text, "tasks": request.tasks}
    if request.image is not None:
        raise BadInputError(f"--image {why}")
    for key, asked in typed.items():
        if asked:
            raise BadInputError(f"{flag(key)} {why}")
        if getattr(suite, key):
            raise BadInputError(f"{suite.where(key) or f'suite {suite.name}: {key}: '}{why}")


def _option_error(place: tuple[int | str, ...], given: object, message: str) -> str:
    """Return what is wrong with an option: the suite itself was checked when it was read."""
    message = message.removeprefix("Value error, ")
    of_workload = place[0] == "workloads"
    if of_workload and len(place) < 3:
        return f"the options do not go with the suite's workloads: {message}"
    key = str(place[2 if of_workload else 0])
    shown = ", ".join(map(str, given)) if isinstance(given, list | tuple) else given
    return f"{flag(key)} {shown}: {message}"


def _overridden(sweeps: list[WorkloadSweep], request: RunRequest) -> list[dict[str, Any]]:
    given = {
        "input_tokens": list(request.input_tokens),
        "output_tokens": list(request.output_tokens),
        "batch": list(request.batch),
        "answers": list(request.answers),
        "images": list(request.images),
        "image_size": list(request.image_size),
    }
    return [sweep.model_dump() | {name: value for name, value in given.items() if value} for sweep in sweeps]


def resolve_all(suite: Suite, request: RunRequest) -> dict[str, Checkpoint]:
    """Resolve every checkpoint of the suite, by the name it is asked for.

    Raises:
        BadInputError: one is unknown or unusable, or ``--revision`` could mean several.
    """
    names = suite.all_checkpoints()
    if request.revision and len(names) != 1:
        raise BadInputError("--revision goes with exactly one --model; write org/name@revision for several")
    known = dict(request.checkpoints)
    return {
        name: known.get(name)
        or resolve(
            name,
            revision=request.revision,
            offline=request.offline,
            trust_remote_code=request.trust_remote_code,
            convert_pickles=request.convert_pickles,
            dequantize=request.dequantize,
        )
        for name in names
    }


def plan_request(request: RunRequest) -> tuple[Plan, AskedPrompts]:
    """Return what the request would measure, and what it reads; nothing is exported or measured.

    Raises:
        BadInputError: the request is wrong.
        CannotRunError: nothing of it can run here.
    """
    suite = requested_suite(request)
    checkpoints = resolve_all(suite, request)
    reference = None if request.reference is None else resolve(request.reference, offline=request.offline)
    if reference is not None:
        check_reference(reference, checkpoints)
    checkpoints = with_projectors(checkpoints, reference, suite, request)
    suite = _with_backends_of_given(suite, checkpoints, request)
    prompts = asked_prompts(request, checkpoints, reference)
    options = PlanOptions(
        simulate=request.simulate,
        arms=_arm_names(request.arms),
        backend_options=request.backend_options,
        attention=request.attention if request.attention not in (None, "best", "all") else None,
        share_loads=request.share_loads,
        prompts_digest=prompts.texts.digest if prompts.texts else None,
        prompt_tokens=prompts.longest,
        pictures_digest=prompts.pictures.digest if prompts.pictures else None,
        routes={(format_, precision): exporter for format_, precision, exporter in request.routes},
    )
    plan = make_plan(suite, checkpoints, options)
    of_text = [one for one in ("quality", "quality_text", "tasks") if getattr(request, one) or getattr(suite, one)]
    check_text_alone(map(flag, of_text), (cell.case for cell in plan.cells))
    return _only(plan, request.only_cases), prompts


def _with_backends_of_given(suite: Suite, checkpoints: Mapping[str, Checkpoint], request: RunRequest) -> Suite:
    """Return the suite with the backends that artifacts of the user are deployed with, where no backend is named.

    Where only such artifacts are asked for, by name, there is no other backend to compare with.
    """
    wanted = [default_backend(one.given.layout, one.family) for one in checkpoints.values() if one.given]
    if request.backends or not wanted:
        return suite
    alone = len(wanted) == len(checkpoints) and not request.suite
    return suite.model_copy(update={"backends": list(dict.fromkeys(wanted if alone else [*suite.backends, *wanted]))})


def _only(plan: Plan, keys: Sequence[str]) -> Plan:
    """Return the plan of some of its cases alone, with the pairs that are among them.

    Raises:
        BadInputError: a key is not one of the plan's.
    """
    if not keys:
        return plan
    cells = tuple(cell for cell in plan.cells if cell.case.key in set(keys))
    unknown = set(keys) - {cell.case.key for cell in cells}
    if unknown:
        hint = nearest(min(unknown), [cell.case.key for cell in plan.cells])
        raise BadInputError(f"only_cases: the plan has no case {min(unknown)}.{hint}")
    there = {cell.case.checkpoint for cell in cells}
    pairs = [pair for pair in plan.suite.pairs if there.issuperset(pair[:2])]
    # What cannot run is said once, by whoever planned the whole.
    return replace(plan, cells=cells, refusals=(), suite=plan.suite.model_copy(update={"pairs": pairs}))


def _arm_names(arms: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    names = tuple(name for name, _ in arms)
    if len(names) == 1:
        raise BadInputError("--arm is given once; two or more NAME=PYTHON are compared")
    if len(set(names)) != len(names):
        raise BadInputError(f"--arm: the same name twice in {', '.join(names)}")
    for name, python in arms:
        if not (shutil.which(python)):
            raise BadInputError(f"--arm {name}={python}: no such interpreter")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,32}", name):
            raise BadInputError(f"--arm {name}: letters, digits, '.', '_' and '-' make a name")
    return names
