"""From what a suite asks for to what can run here: cases with their artifacts, and what is left out and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from slmbench.backend import (
    Backend,
    SharesLoads,
    load_backend,
    specs_of,
)
from slmbench.case import Case, Workload
from slmbench.errors import BadInputError, CannotRunError, nearest
from slmbench.export.calibration_text import with_kept_text
from slmbench.export.recipes import check_used, with_recipe
from slmbench.export.routes import ChosenRoute, choose_route
from slmbench.export.routes import refusal as export_refusal
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.asked_checks import check_names, check_pairs, check_threads
from slmbench.plan.configuration import shared_configurations
from slmbench.plan.refusal_reasons import (
    ability_refusal,
    batch_refusal,
    device_refusal,
    format_refusal,
    length_refusal,
    option_refusal,
    picture_refusal,
    shipped_refusal,
    undriven,
)
from slmbench.plan.session_choices import default_attention, default_compute, session_options
from slmbench.plan.suite import Cell, Suite
from slmbench.records.refusals import Refusal, refusal_lines
from slmbench.terms import AskedCompute, ComputePrecision, Exporter, Format, Precision


@dataclass(frozen=True)
class PlannedCell:
    """A case that can run, and the artifact it needs."""

    case: Case
    checkpoint: Checkpoint
    spec: ArtifactSpec
    engine: str
    #: Fields of the backend's options type, JSON values.
    options: dict[str, Any] = field(default_factory=dict, compare=False)
    #: The configuration whose other cases the case shares its loads with; None: its loads are its own.
    configuration: str | None = None


@dataclass(frozen=True)
class PlanOptions:
    """What decides a plan besides the suite."""

    simulate: bool = False
    #: Arms by name; empty for a plain run.
    arms: tuple[str, ...] = ()
    #: Options for backends, as (name, value).
    backend_options: tuple[tuple[str, str], ...] = ()
    #: One attention path by name instead of the suite's ``best`` or ``all``.
    attention: str | None = None
    #: Text prompts: their digest, and the longest one's length in each checkpoint's own tokens.
    prompts_digest: str | None = None
    prompt_tokens: Mapping[str, int] = field(default_factory=dict)
    #: The user's pictures: their digest.
    pictures_digest: str | None = None
    #: Whether one load serves all workloads of a configuration, where its backend can do that.
    share_loads: bool = True
    #: The exporters that a baseline was measured with: what is compared with it goes the same way.
    routes: Mapping[tuple[Format, Precision], Exporter] = field(default_factory=dict)

    def workload(self, cell: Cell) -> Workload:
        """Return the cell's workload; of the user's texts and pictures where there are some."""
        asked: dict[str, Any] = {}
        if self.prompts_digest is not None:
            asked |= {"input_tokens": self.prompt_tokens[cell.checkpoint], "prompts": self.prompts_digest}
        if self.pictures_digest is not None:
            asked |= {"images": 1, "image_size": None, "pictures": self.pictures_digest}
        if not asked:
            return cell.workload
        try:
            return Workload.model_validate({**cell.workload.model_dump(), **asked})
        except ValidationError as error:
            flag = "--image" if self.pictures_digest else "--prompts"
            raise BadInputError(f"{flag}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


@dataclass(frozen=True)
class Plan:
    """Everything that will be measured."""

    suite: Suite
    cells: tuple[PlannedCell, ...]
    refusals: tuple[Refusal, ...]
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    #: For each format and precision the exporter, and why those asked before it are not.
    routes: dict[tuple[Format, Precision], ChosenRoute] = field(default_factory=dict)

    def route_lines(self) -> list[str]:
        """Return a line for each format and precision that is exported here."""
        used = {(cell.spec.format, cell.spec.weight_precision) for cell in self.cells}
        return [f"route to {f} {p}: {chosen.sentence()}" for (f, p), chosen in self.routes.items() if (f, p) in used]

    def artifacts(self) -> list[tuple[Checkpoint, ArtifactSpec]]:
        """Return each artifact that the cases need, once."""
        return list(dict.fromkeys((cell.checkpoint, cell.spec) for cell in self.cells))

    def digest(self) -> str:
        """Return the SHA-256 over the cases and the bytes of their checkpoints: what `--resume` must find again."""
        keys = sorted((cell.case.key, cell.checkpoint.digest) for cell in self.cells)
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def make_plan(suite: Suite, checkpoints: dict[str, Checkpoint], options: PlanOptions) -> Plan:
    """Decide for every cell of the suite whether it can run here, by which artifact; what cannot is listed with why.

    Raises:
        BadInputError: something asked for is wrong: more threads than cores, an unknown backend or option.
        CannotRunError: nothing at all can run; one line a reason.
    """
    check_names(checkpoints)
    check_pairs(suite, checkpoints)
    check_threads(suite.threads)
    suite = suite.model_copy(update={"recipe": with_kept_text(suite.recipe)})
    backends, broken = _load_backends(suite.backends)
    _check_attention(options.attention, backends)
    no_way = {(name, device): undriven(backends[name], device) for name in backends for device in suite.devices}
    absent = {
        (name, device): device_refusal(backends[name], device, simulate=options.simulate)
        for name in backends
        for device in suite.devices
    }
    routes = _routes(suite, backends, checkpoints, options)
    exporters = {key: route.exporter for key, route in routes.items()}
    auto = suite.exporter == "auto"
    seen_by = _picture_exporters(_cells(suite, options, checkpoints), backends, checkpoints) if auto else {}
    cells: list[PlannedCell] = []
    refusals: list[Refusal] = []
    for cell in _cells(suite, options, checkpoints):
        checkpoint, backend = checkpoints[cell.checkpoint], backends.get(cell.backend)
        if backend is None:
            refusals.append(refused(checkpoint, cell, cell.compute_precision, broken[cell.backend]))
            continue
        fixed = checkpoint.given.compute if checkpoint.given else None
        compute = cell.compute_precision or fixed or default_compute(backend, cell, options)
        asked = _asked(cell, compute)
        others = [one for one in backends.values() if one is not backend]
        length = length_refusal(checkpoint, cell.workload)
        reason = (
            no_way[cell.backend, cell.device]
            or picture_refusal(checkpoint, cell.workload)
            or format_refusal(backend, checkpoint, cell)
            or absent[cell.backend, cell.device]
            or (length and suite.where("workloads") + length)
            or option_refusal(backend.options_type, dict(options.backend_options), others)
        )
        spec = reason or _choose_spec(backend, checkpoint, cell, seen_by if cell.workload.images else exporters, suite)
        if isinstance(spec, str) and checkpoint.given is not None and _others_take(checkpoint, cell, others):
            continue
        if isinstance(spec, str):
            refusals.append(refused(checkpoint, cell, asked, spec))
            continue
        for found in _runnable(suite, backend, checkpoint, cell, spec, compute, options):
            cells += [found] if isinstance(found, PlannedCell) else []
            refusals += [found] if isinstance(found, Refusal) else []
    if not cells:
        raise CannotRunError("\n".join(["nothing can be measured", *refusal_lines(refusals)]))
    check_used(suite.recipe, (cell.spec for cell in cells))
    # In tables and keys a folder has a name, not a path.
    suite = suite.called({reference: one.name for reference, one in checkpoints.items()})
    return Plan(suite, _with_configurations(cells, backends, options), tuple(refusals), checkpoints, routes)


def _with_configurations(
    cells: Sequence[PlannedCell], backends: Mapping[str, Backend], options: PlanOptions
) -> tuple[PlannedCell, ...]:
    """Return the cells, each with the configuration that it shares its loads in."""

    def may_share(cell: PlannedCell) -> bool:
        backend = backends[cell.case.backend]
        return isinstance(backend, SharesLoads) and backend.shares_loads(cell.spec, cell.case.device)

    sharing = [cell for cell in cells if options.share_loads and may_share(cell)]
    found = shared_configurations((cell.case, cell.options["attention"]) for cell in sharing)
    return tuple(replace(cell, configuration=found.get(cell.case.key)) for cell in cells)


def _load_backends(names: Sequence[str]) -> tuple[dict[str, Backend], dict[str, str]]:
    """Return the backends by name, and why those that do not load do not.

    Raises:
        BadInputError: there is no backend of that name.
    """
    found, broken = {}, {}
    for name in dict.fromkeys(names):
        try:
            found[name] = load_backend(name)
        except CannotRunError as error:
            broken[name] = str(error)
    return found, broken


def refused(
    checkpoint: Checkpoint, cell: Cell | Case, compute: AskedCompute | None, reason: str, attention: str | None = None
) -> Refusal:
    """Return what a cell's row says in place of figures."""
    return Refusal(
        checkpoint=cell.checkpoint,
        family=checkpoint.family,
        parameters=checkpoint.parameter_count,
        backend=cell.backend,
        device=cell.device,
        weight_precision=cell.weight_precision,
        compute_precision=compute,
        workload=cell.workload,
        attention=attention,
        reason=reason,
    )


def _check_attention(path: str | None, backends: Mapping[str, Backend]) -> None:
    known = list(dict.fromkeys(path for backend in backends.values() for path in backend.attention_paths))
    if path is not None and path not in known:
        raise BadInputError(
            f"--attention {path}: none of {', '.join(backends)} has it. Known: {', '.join(['best', 'all', *known])}."
            + nearest(path, known)
        )


def _cells(suite: Suite, options: PlanOptions, checkpoints: Mapping[str, Checkpoint]) -> list[Cell]:
    """Return the suite's cells, each once: text prompts make one workload of several input lengths.

    Of an artifact that the user brings, the weights have the precision that its file holds, whatever is asked.
    """
    cells = []
    for cell in suite.cells():
        given = checkpoints[cell.checkpoint].given
        weights = cell.weight_precision if given is None else given.precision
        cells.append(replace(cell, workload=options.workload(cell), weight_precision=weights))
    return list(dict.fromkeys(cells))


def _routes(
    suite: Suite, backends: Mapping[str, Backend], checkpoints: Mapping[str, Checkpoint], options: PlanOptions
) -> dict[tuple[Format, Precision], ChosenRoute]:
    """Choose one exporter for each format and precision: one comparison, one route."""
    wanted: dict[tuple[Format, Precision], dict[str, Checkpoint]] = {}
    for cell in suite.cells():
        backend, checkpoint = backends.get(cell.backend), checkpoints[cell.checkpoint]
        if cell.workload.images or options.pictures_digest:
            # Few routes take pictures: see `_picture_exporters`.
            continue
        for spec in specs_of(backend, checkpoint, cell.weight_precision, cell.device) if backend else ():
            if _has_routes(spec):
                wanted.setdefault((spec.format, cell.weight_precision), {})[checkpoint.name] = checkpoint
    asked: Mapping[tuple[Format, Precision], Exporter] = options.routes
    if suite.exporter != "auto":
        asked = dict.fromkeys(wanted, suite.exporter)
    return {
        key: ChosenRoute(asked[key]) if key in asked else choose_route(key[0], list(group.values()), key[1])
        for key, group in wanted.items()
    }


def _picture_exporters(
    cells: Sequence[Cell], backends: Mapping[str, Backend], checkpoints: Mapping[str, Checkpoint]
) -> dict[tuple[Format, Precision], Exporter]:
    """Return for each format and precision the first exporter that all cells with pictures can take, if there is one.

    A cell that no exporter takes decides nothing.
    """
    able: dict[tuple[Format, Precision], list[list[Exporter]]] = {}
    for cell in cells:
        backend, checkpoint = backends.get(cell.backend), checkpoints[cell.checkpoint]
        if backend is None or not cell.workload.images:
            continue
        specs = specs_of(backend, checkpoint, cell.weight_precision, cell.device, pictures=True)
        taken = [one for one in specs if _has_routes(one) and export_refusal(checkpoint, one) is None]
        if taken:
            able.setdefault((taken[0].format, cell.weight_precision), []).append([one.exporter for one in taken])
    shared = {key: [one for one in lists[0] if all(one in other for other in lists)] for key, lists in able.items()}
    return {key: found[0] for key, found in shared.items() if found}


def _has_routes(spec: ArtifactSpec) -> bool:
    """Tell whether there are exporters to choose from: not for fixed shapes, nor for graphs made for one engine."""
    plain = spec.layout == "dynamic" and spec.format != "torch" and spec.target is None
    return plain and spec.exporter != "given"


def _choose_spec(
    backend: Backend,
    checkpoint: Checkpoint,
    cell: Cell,
    exporters: dict[tuple[Format, Precision], Exporter],
    suite: Suite,
) -> ArtifactSpec | str:
    """Return the artifact for the cell, or why there is none."""
    pictures = cell.workload.images > 0
    specs = specs_of(backend, checkpoint, cell.weight_precision, cell.device, pictures=pictures)
    if checkpoint.given is not None:
        return specs[0]
    reasons = []
    for spec in specs:
        chosen = exporters.get((spec.format, cell.weight_precision)) if _has_routes(spec) else None
        if spec.layout == "dynamic" and (spec.target or pictures) and suite.exporter not in ("auto", spec.exporter):
            continue
        if chosen in (None, spec.exporter):
            bounded = with_recipe(_bounded(spec, cell), checkpoint, suite.recipe)
            reason = export_refusal(checkpoint, bounded)
            if reason is None:
                return bounded
            reasons.append(reason)
    if reasons:
        return reasons[0]
    names = ", ".join(dict.fromkeys(spec.exporter for spec in specs))
    asked, otherwise = f"exporter {suite.exporter}", "leave that out"
    if suite.exporter == "auto":
        asked, otherwise = "the exporter that fits all checkpoints here", "measure this one in a run of its own"
    return f"{backend.name} takes artifacts by {names}, not by {asked}: {otherwise}, or --exporter {specs[0].exporter}"


def _others_take(checkpoint: Checkpoint, cell: Cell, others: Sequence[Backend]) -> bool:
    """Tell whether another backend of the plan takes the user's artifact: then nobody misses it in this one."""
    return any(specs_of(one, checkpoint, cell.weight_precision, cell.device) for one in others)


def _bounded(spec: ArtifactSpec, cell: Cell) -> ArtifactSpec:
    if spec.layout == "dynamic":
        return spec
    sizes = {"input_tokens": cell.workload.input_tokens, "output_tokens": cell.workload.output_tokens}
    return spec.model_copy(update=sizes)


def _runnable(
    suite: Suite,
    backend: Backend,
    checkpoint: Checkpoint,
    cell: Cell,
    spec: ArtifactSpec,
    compute: ComputePrecision,
    options: PlanOptions,
) -> Iterator[PlannedCell | Refusal]:
    """Yield the cell's cases (one an attention path and arm), and the paths that cannot run with their reasons."""
    asked = _asked(cell, compute)
    paths: Sequence[str | None] = [options.attention]
    if suite.attention == "all" and not options.attention and backend.attention_paths:
        paths = backend.attention_paths
    for path in paths:
        if path is not None and path not in backend.attention_paths:
            known = ", ".join(backend.attention_paths) or "no choice"
            yield refused(checkpoint, cell, asked, f"has no attention path '{path}' (it has: {known})", path)
            continue
        best = path or default_attention(backend, checkpoint, cell)
        opened_with = session_options(backend, compute, suite, options, best, cell.settings)
        refusal = shipped_refusal(backend, spec, cell.device) if cell.settings == "shipped" else None
        refusal = refusal or backend.refusal(checkpoint, spec, opened_with, cell.device)
        refusal = refusal or batch_refusal(spec, cell.device, cell.workload)
        refusal = refusal or ability_refusal(backend, checkpoint, spec, cell.workload)
        if refusal:
            yield refused(checkpoint, cell, asked, refusal, path)
            continue
        for arm in options.arms or (None,):
            case = Case(
                checkpoint=checkpoint.name,
                backend=backend.name,
                device=cell.device,
                format=spec.format,
                layout=spec.layout,
                exporter=spec.exporter,
                weight_precision=cell.weight_precision,
                compute_precision=asked,
                workload=cell.workload,
                attention=path,
                threads=suite.threads,
                options=options.backend_options,
                arm=arm,
                simulate=options.simulate,
                settings=cell.settings,
                recipe=spec.recipe,
            )
            yield PlannedCell(case, checkpoint, spec, backend.engine, opened_with.model_dump(mode="json"))


def _asked(cell: Cell, compute: ComputePrecision) -> AskedCompute:
    return "default" if cell.settings == "shipped" else compute
