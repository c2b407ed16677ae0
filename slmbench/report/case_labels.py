"""Short names of cases: for axes, legends and progress, where a key would be too long. No two cases share one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from slmbench.analysis.metrics import Side
from slmbench.analysis.pairs import precision_of
from slmbench.case import Case


def side_labels(side: Side) -> dict[str, str]:
    """Return by key each case's model, backend, lengths, and what else distinguishes it from the side's others."""
    paths = {found.case.key: found.model.attention_path or "" for found in side.cases.values()}
    labels = case_labels([found.case for found in side.cases.values()], paths)
    return {key: labels[found.case.key] for key, found in side.cases.items()}


def case_labels(cases: Sequence[Case], paths: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a label of each case by its key; ``paths`` are the decoder paths that were read back, by key too."""
    known = paths or {}

    def shown(part: _Part) -> bool:
        # What follows from the backend is not said next to it.
        by_backend: dict[str, set[str]] = {}
        for case in cases:
            own = case.backend if part in _OF_BACKEND else ""
            by_backend.setdefault(own, set()).add(part(case, known.get(case.key, "")))
        return part in _ALWAYS or any(len(texts) > 1 for texts in by_backend.values())

    parts = [part for part in _PARTS if shown(part)]
    return {case.key: " ".join(filter(None, (part(case, known.get(case.key, "")) for part in parts))) for case in cases}


def full_names(cases: Sequence[Case], paths: Mapping[str, str]) -> dict[str, str]:
    """Return by key ``dec-small on openvino in int8/fp32`` and what else distinguishes cases of equal lengths."""
    named = {case.key: f"{case.checkpoint} on {case.backend} in {precision_of(case)}" for case in cases}
    rest = [part for part in _PARTS if part not in (_model, _backend, _precision, _recipe, _lengths)]

    alike: dict[str, list[Case]] = {}
    for case in cases:
        alike.setdefault(named[case.key], []).append(case)
    told: dict[str, str] = {}
    for name, group in alike.items():
        values = [{case.key: part(case, paths.get(case.key, "")) for case in group} for part in rest]
        more = [value for value in values if len(set(value.values())) > 1]
        told |= {case.key: " ".join(filter(None, [name, *(value[case.key] for value in more)])) for case in group}
    return told


#: Of a case and its decoder path.
_Part = Callable[[Case, str], str]


def _lengths(case: Case, _path: str) -> str:
    return f"{case.workload.input_tokens}/{case.workload.output_tokens}"


def _options(case: Case, _path: str) -> str:
    return " ".join(f"{name}={value}" for name, value in case.options)


def _model(case: Case, _path: str) -> str:
    return case.checkpoint


def _backend(case: Case, _path: str) -> str:
    return case.backend


def _precision(case: Case, _path: str) -> str:
    return f"{case.weight_precision}/{case.compute_precision}"


def _recipe(case: Case, _path: str) -> str:
    return case.recipe or ""


def _format(case: Case, _path: str) -> str:
    return case.format


_OF_BACKEND = (_format,)
_ALWAYS = (_model, _backend, _recipe, _lengths, _options)
#: In the order in which they are said; those that are not among :data:`_ALWAYS` only where cases differ in them.
_PARTS: tuple[_Part, ...] = (
    lambda c, _: f"{c.arm}:" if c.arm else "",
    _model,
    _backend,
    lambda _, path: path,
    lambda c, path: c.attention if c.attention and c.attention != path else "",
    _precision,
    _recipe,
    lambda c, _: "shipped" if c.settings == "shipped" else "",
    lambda c, _: c.exporter,
    _format,
    lambda c, _: c.layout,
    lambda c, _: c.device,
    lambda c, _: f"{c.threads} threads" if c.threads else "",
    lambda c, _: "simulated" if c.simulate else "",
    _lengths,
    lambda c, _: c.workload.more(),
    lambda c, _: f"text {c.workload.prompts}" if c.workload.prompts else "",
    _options,
)
