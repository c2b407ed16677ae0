"""Suites: what is to be measured, as YAML. Reading, checking, and the product of its lists.

A suite multiplies checkpoints, backends, devices, precisions and workloads into cells; which of them can run,
and with which artifact, is :mod:`slmbench.plan.planner`'s business.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from slmbench.case import Workload
from slmbench.errors import BadInputError, nearest
from slmbench.export.recipes import check_recipe
from slmbench.plan.precisions import parse_precision
from slmbench.plan.scale import Scale, Seconds, named_claim, named_pair, scaled, scaled_one
from slmbench.plan.typed_lists import listed, paired
from slmbench.plan.workload_sweep import Count, WorkloadSweep
from slmbench.records.schema import Claim
from slmbench.system.files import read_regular
from slmbench.system.yaml_reader import MAX_FILE_BYTES, compose_yaml, mark_line
from slmbench.terms import (
    ComputePrecision,
    Device,
    Exporter,
    PairNames,
    Precision,
    Settings,
    StrictModel,
)

MAX_CASES = 100_000

_Names = Annotated[list[str], BeforeValidator(listed, json_schema_input_type=str | list[str])]


def _recipe(text: str) -> str:
    try:
        return check_recipe(text)
    except BadInputError as error:
        raise ValueError(str(error)) from error


class Suite(StrictModel):
    """A suite. Everything listed multiplies."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)
    description: str = ""
    #: Checkpoints in addition to those of the pairs.
    checkpoints: _Names = Field(default_factory=list)
    #: (encoder-decoder, decoder-only), to be judged against each other; of the same size, or as the pairing says.
    pairs: list[Annotated[PairNames, BeforeValidator(paired)]] = Field(default_factory=list)
    #: Backends to run; one that cannot take a checkpoint's family leaves it out and says so.
    backends: _Names = Field(default=["openvino", "onnxruntime"], min_length=1)
    devices: Annotated[list[Device], BeforeValidator(listed)] = Field(default=["cpu"], min_length=1)
    #: ``WEIGHTS`` or ``WEIGHTS/COMPUTE``.
    precisions: _Names = Field(default=["fp32"], min_length=1)
    workloads: list[WorkloadSweep] = Field(min_length=1)
    exporter: Literal["auto", Exporter] = "auto"
    #: plain, optimum, optimum:ORG/NAME or genai:KEY=VALUE,...: how weights are quantised.
    recipe: Annotated[str, AfterValidator(_recipe)] = "plain"
    #: The best attention path of each backend, or every one it has.
    attention: Literal["best", "all"] = "best"
    #: fair: every engine computes in the asked precision; shipped: each engine's own defaults.
    settings: Annotated[list[Settings], BeforeValidator(listed)] = Field(default=["fair"], min_length=1)
    threads: Count | None = None
    #: Seconds of measuring after which a case that has not converged is left as it is.
    budget_s: Seconds | None = None
    #: A fixed number of samples a case instead of the stop rule.
    repeat: Count | None = None
    #: The half-width in percent at which an interval is narrow enough; without it, that of each metric's own target.
    interval_target: Annotated[float, Field(gt=0, lt=100)] | None = None
    #: Measure quality too, on these files (relative to where slmbench is started), or on the text that comes with it.
    quality_text: _Names = Field(default_factory=list)
    quality: Annotated[bool, Field(strict=True)] = False
    #: A file of tasks that every case answers as well, and how many tokens an answer may have.
    tasks: Annotated[str, Field(min_length=1)] | None = None
    max_new_tokens: Count | None = None
    #: Whether the report looks for the lengths at which a pair's lead changes hands.
    crossover: bool = False
    #: Published claims that the report holds against the pairs' figures.
    claims: list[Claim] = Field(default_factory=list)
    #: Smaller versions by name, for ``--scale``.
    scales: dict[str, Scale] = Field(default_factory=dict)
    #: File and line of each key, for errors that show when the suite is planned.
    _places: dict[tuple[str | int, ...], str] = PrivateAttr(default_factory=dict)

    def where(self, key: str, index: int | None = None) -> str:
        """Return ``FILE:LINE: KEY: `` of a key or of an item of it, empty for what no file says."""
        place = self._places.get((key,) if index is None else (key, index)) or self._places.get((key,))
        return f"{place}: {key}: " if place else ""

    def with_places_of(self, other: Suite, *, without: Iterable[str]) -> Suite:
        """Return this suite with the places of another, but for keys that were replaced on the command line."""
        replaced = set(without)
        copied = self.model_copy()
        copied._places = {place: line for place, line in other._places.items() if place[0] not in replaced}
        return copied

    @field_validator("precisions")
    @classmethod
    def _known_precisions(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                parse_precision(text)
            except BadInputError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("settings")
    @classmethod
    def _nothing_asked_of_shipped(cls, value: list[Settings], info: ValidationInfo) -> list[Settings]:
        asked = next((one for one in info.data.get("precisions", ()) if "/" in one), None)
        if asked and "shipped" in value:
            weights = asked.partition("/")[0]
            raise ValueError(f"the engine chooses what it computes in: write {weights}, not {asked}")
        return value

    def all_checkpoints(self) -> list[str]:
        """Return the checkpoints of the pairs and the others, each once, in order."""
        paired = itertools.chain.from_iterable(pair[:2] for pair in self.pairs)
        return list(dict.fromkeys([*paired, *self.checkpoints]))

    def called(self, names: Mapping[str, str]) -> Suite:
        """Return this suite with other names for the checkpoints of its pairs and claims, where ``names`` has some."""
        pairs = [named_pair(pair, names) for pair in self.pairs]
        claims = [named_claim(claim, names) for claim in self.claims]
        return self.model_copy(update={"pairs": list(dict.fromkeys(pairs)), "claims": claims})

    def compared(self) -> list[PairNames]:
        """Return what verdicts are made of, and so must be measured together: pairs, and what claims name."""
        return [*self.pairs, *(claim.between for claim in self.claims if claim.between)]

    def scaled(self, name: str) -> Suite:
        """Return the smaller version of that name.

        Raises:
            BadInputError: the suite has no such scale.
        """
        if name not in self.scales:
            known = ", ".join(self.scales) or "none"
            raise BadInputError(f"suite '{self.name}' has no scale '{name}'. It has: {known}.")
        scale = self.scales[name]
        stand_in = scale.checkpoints
        workloads = [
            sweep.model_copy(
                update={
                    "input_tokens": scaled(sweep.input_tokens, scale.input_tokens),
                    "output_tokens": scaled(sweep.output_tokens, scale.output_tokens),
                    "added_tokens": scaled_one(sweep.added_tokens, scale.input_tokens),
                    "last_output_tokens": scaled_one(sweep.last_output_tokens, scale.output_tokens),
                    "answers": scaled(sweep.answers, scale.answers),
                }
            )
            for sweep in self.workloads
        ]
        return self.called(stand_in).model_copy(
            update={
                "name": f"{self.name}-{name}",
                "checkpoints": list(dict.fromkeys(stand_in.get(one, one) for one in self.checkpoints)),
                "workloads": workloads,
                "budget_s": scale.budget_s or self.budget_s,
            }
        )

    def cells(self) -> Iterator[Cell]:
        """Yield the product.

        Raises:
            BadInputError: it has more than ``MAX_CASES`` cells, or no checkpoint.
        """
        # Counted before anything is multiplied out: three long lists would fill any memory.
        sweeps = sum(one.count for one in self.workloads)
        per_model = len(self.devices) * len(self.settings) * len(self.precisions) * len(self.backends)
        count = sweeps * per_model * len(self.all_checkpoints())
        if not self.all_checkpoints():
            raise BadInputError(f"suite '{self.name}' names no checkpoint: add `pairs` or `checkpoints`")
        if count > MAX_CASES:
            where = self.where("workloads")
            raise BadInputError(
                f"{where}suite '{self.name}' expands to {count:,} cases; at most {MAX_CASES:,} are taken"
            )
        workloads = list(dict.fromkeys(itertools.chain.from_iterable(sweep.workloads() for sweep in self.workloads)))
        product = itertools.product(
            self.devices, self.settings, self.precisions, workloads, self.all_checkpoints(), self.backends
        )
        for device, settings, precision, workload, checkpoint, backend in product:
            yield Cell(checkpoint, backend, device, *parse_precision(precision), workload, settings)


@dataclass(frozen=True)
class Cell:
    """One combination that a suite asks for."""

    checkpoint: str
    backend: str
    device: Device
    weight_precision: Precision
    #: None: the backend's choice.
    compute_precision: ComputePrecision | None
    workload: Workload
    settings: Settings = "fair"


def suite_names() -> list[str]:
    """Return the names of the suites that come with slmbench."""
    return sorted(Path(entry.name).stem for entry in files("slmbench.suites").iterdir() if entry.name.endswith(".yaml"))


def suite_text(reference: str) -> tuple[str, str]:
    """Return the YAML text of a suite and where it stands.

    ``reference`` is a name from :func:`suite_names` or the path of a YAML file.

    Raises:
        BadInputError: there is neither, or the file cannot be read.
    """
    path = Path(reference)
    if path.suffix in {".yaml", ".yml"}:
        try:
            return read_regular(path, MAX_FILE_BYTES).decode(), str(path)
        except UnicodeDecodeError as error:
            raise BadInputError(f"{path}: not UTF-8 text: {error.reason}") from error
        except OSError as error:
            raise BadInputError(f"{path}: {error.strerror}") from error
    names = suite_names()
    if reference not in names:
        raise BadInputError(
            f"unknown suite '{reference}'. Known: {', '.join(names)}; or the path of a .yaml file."
            f"{nearest(reference, names)}"
        )
    entry = files("slmbench.suites") / f"{reference}.yaml"
    return entry.read_text(encoding="utf-8"), f"{reference}.yaml"


def load_suite(reference: str) -> Suite:
    """Read a suite by name or path.

    Raises:
        BadInputError: not found, not YAML, or not a suite; with file, line and key.
    """
    text, where = suite_text(reference)
    return parse_suite(text, where)


def parse_suite(text: str, where: str) -> Suite:
    """Parse a suite's YAML; ``where`` names its file in errors.

    Raises:
        BadInputError: not YAML, or not a suite; with file, line and key.
    """
    try:
        root = compose_yaml(text, where)
        data = yaml.SafeLoader("").construct_document(root) if root else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadInputError(f"{where}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where}: not a suite: {error}") from error
    if not isinstance(data, dict):
        raise BadInputError(f"{where}:1: not a suite: a mapping with `name`, `workloads`, ... is expected")
    try:
        suite = Suite.model_validate(data)
        suite._places = _places(root, where)
        return suite
    except ValidationError as error:
        raise BadInputError(_explain(error, root, where)) from error


def _places(root: yaml.Node | None, where: str) -> dict[tuple[str | int, ...], str]:
    """Return ``FILE:LINE`` of each key of a suite and of the items of lists."""
    found: dict[tuple[str | int, ...], str] = {}
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        found[key.value,] = f"{where}:{mark_line(key)}"
        if isinstance(value, yaml.SequenceNode):
            found |= {(key.value, index): f"{where}:{mark_line(item)}" for index, item in enumerate(value.value)}
    return found


def _explain(error: ValidationError, root: Any, where: str) -> str:
    # A misspelt key also misses the right one: the misspelling is the message that helps.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = first["loc"]
    key = ".".join(map(str, location))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        inner: dict[int | str, type[BaseModel]] = {"workloads": WorkloadSweep, "claims": Claim, "scales": Scale}
        model = inner.get(location[0], Suite) if len(location) > 1 else Suite
        message = f"unknown key.{nearest(str(location[-1]), list(model.model_fields))}"
    return f"{where}:{_line(root, location)}: {key}: {message}"


def _line(node: Any, location: tuple[int | str, ...]) -> int:
    """Return the line (from 1) of the deepest node along ``location`` that the text has."""
    line = node.start_mark.line
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1
