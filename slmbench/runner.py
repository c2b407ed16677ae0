"""A run from request to report: resolve, plan, export, measure, write tables."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.checkpoint import Checkpoint, resolve
from slmbench.errors import BadInputError
from slmbench.plan import Plan, PlanOptions, make_plan
from slmbench.prompts import Prompts, load_tokenizer, read_prompts, token_ids
from slmbench.suite import Suite, WorkloadSweep, load_suite

if TYPE_CHECKING:
    import pandas as pd

    from slmbench.records import Run

DEFAULT_SUITE = "quick"


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for; what is empty comes from the suite."""

    models: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    suite: str | None = None
    scale: str | None = None
    devices: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    input_tokens: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    prompts: Path | None = None
    threads: int | None = None
    exporter: str | None = None
    attention: str | None = None
    backend_options: tuple[tuple[str, str], ...] = ()
    repeat: int | None = None
    budget_s: float | None = None
    precision_target: float | None = None
    seed: int = 0
    arms: tuple[tuple[str, str], ...] = ()
    simulate: bool = False
    out: Path | None = None
    resume: Path | None = None
    revision: str | None = None
    offline: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run: Run

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.run.folder

    def table(self) -> pd.DataFrame:
        """Return the comparison table, one row a case, figures in SI units with their intervals."""
        from slmbench.report.table import run_table

        return run_table(self.run)


def requested_suite(request: RunRequest) -> Suite:
    """Return the suite that the request asks for, with its overrides applied.

    Raises:
        BadInputError: the suite or an override is wrong.
    """
    from pydantic import ValidationError

    base = load_suite(request.suite or DEFAULT_SUITE)
    if request.scale:
        base = base.scaled(request.scale)
    update: dict[str, object] = {}
    if request.models or request.pairs:
        update |= {"checkpoints": list(request.models), "pairs": list(request.pairs)}
        if not request.suite:
            update |= {"name": "custom", "description": ""}
    direct = {
        "backends": list(request.backends),
        "devices": list(request.devices),
        "precisions": list(request.precisions),
        "exporter": request.exporter,
        "threads": request.threads,
        "repeat": request.repeat,
        "budget_s": request.budget_s,
    }
    update |= {name: value for name, value in direct.items() if value not in (None, [])}
    if request.attention in ("best", "all"):
        update["attention"] = request.attention
    update["workloads"] = _overridden(base.workloads, request)
    if request.devices and set(request.devices) != {"cpu"} and not request.backends:
        from slmbench.backend import backend_names

        update["backends"] = backend_names()
    try:
        return Suite.model_validate({**base.model_dump(), **update})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BadInputError(f"{key}: {first['msg'].removeprefix('Value error, ')} (given: {first['input']})") from error


def _overridden(sweeps: list[WorkloadSweep], request: RunRequest) -> list[dict[str, list[int]]]:
    given = {
        "input_tokens": list(request.input_tokens),
        "output_tokens": list(request.output_tokens),
        "batch": list(request.batch),
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
    return {
        name: resolve(
            name,
            revision=request.revision,
            offline=request.offline,
            trust_remote_code=request.trust_remote_code,
        )
        for name in names
    }


def plan_request(request: RunRequest) -> tuple[Plan, Prompts | None]:
    """Return what the request would measure, without exporting or measuring anything.

    Raises:
        BadInputError: the request is wrong.
        CannotRunError: nothing of it can run here.
    """
    suite = requested_suite(request)
    checkpoints = resolve_all(suite, request)
    prompts = read_prompts(request.prompts) if request.prompts else None
    options = PlanOptions(
        simulate=request.simulate,
        arms=_arm_names(request.arms),
        backend_options=request.backend_options,
        attention=request.attention if request.attention not in (None, "best", "all") else None,
        prompts_digest=prompts.digest if prompts else None,
        prompt_tokens=_longest(prompts, checkpoints) if prompts else {},
    )
    return make_plan(suite, checkpoints, options), prompts


def _longest(prompts: Prompts, checkpoints: dict[str, Checkpoint]) -> dict[str, int]:
    """Return the longest prompt's length in each checkpoint's own tokens."""
    lengths = {}
    for name, checkpoint in checkpoints.items():
        if checkpoint.path is None:
            raise BadInputError(f"{name}: a catalog model has no tokenizer, so --prompts cannot be read; use a folder")
        tokenizer = load_tokenizer(checkpoint.path)
        lengths[name] = max(len(token_ids(tokenizer, text)) for text in prompts.texts)
    return lengths


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


def run_folder(request: RunRequest, suite: Suite) -> Path:
    """Make and return the run's folder.

    Raises:
        BadInputError: it exists with something in it, or cannot be made.
    """
    folder = request.resume or request.out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{suite.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not request.resume and any(folder.iterdir()):
            raise BadInputError(f"{folder}: is not empty; choose another --out, or --resume {folder}")
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise BadInputError(f"{folder}: cannot be written")
    return folder
