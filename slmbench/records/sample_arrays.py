"""A run in columns: its samples as arrays instead of objects, read fast enough for a million of them."""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from slmbench.errors import BadInputError
from slmbench.records.lines import sample_lines
from slmbench.records.quality import CaseQuality, read_quality
from slmbench.records.sample_columns import CaseArrays, SampleColumns
from slmbench.records.schema import (
    RUN_NAME,
    SAMPLES_NAME,
    STAND_INS,
    CaseInfo,
    FailureRecord,
    LoadRecord,
    MemoryRecord,
    Run,
    RunRecord,
    SampleRecord,
    folder_of,
    read_run_record,
)
from slmbench.terms import MOST_NATURAL

Other = LoadRecord | MemoryRecord | FailureRecord
_COUNTS = ("load", "round", "batch", "answers", "input_tokens", "output_tokens", "image_tokens")
_OTHERS: dict[str, type[Other]] = {"load": LoadRecord, "memory": MemoryRecord, "failure": FailureRecord}


@dataclass(frozen=True)
class CaseFigures:
    """What may become a figure of one case: nothing where the case was simulated or a proof failed."""

    samples: SampleColumns | None = None
    loads: Sequence[LoadRecord] = ()
    memory: Sequence[MemoryRecord] = ()
    #: What was computed from these figures before: tables, sentences and verdicts ask for the same.
    computed: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class RunColumns:
    """A run as read from disk; ``warnings`` are for the reader of its tables.

    ``recorded`` and ``recorded_memory`` hold what is on disk, proven or not; figures are made of ``figures_of`` alone.
    """

    folder: Path
    record: RunRecord
    recorded: dict[str, SampleColumns]
    loads: dict[str, list[LoadRecord]]
    recorded_memory: dict[str, list[MemoryRecord]]
    failures: dict[str, list[FailureRecord]]
    warnings: list[str] = field(default_factory=list)
    #: By case the case whose longer generations its samples are the beginning of; of several the first.
    sources: dict[str, str] = field(default_factory=dict)
    _figures: dict[str, CaseFigures] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def shared_configurations(self) -> dict[str, str]:
        """Return by case the configuration whose loads served it and at least one other case."""
        named = {
            key: loads[-1].configuration
            for key, loads in self.loads.items()
            if loads[-1].configuration and all(one.configuration == loads[-1].configuration for one in loads)
        }
        users = Counter(named.values())
        return {key: name for key, name in named.items() if name and users[name] > 1}

    @cached_property
    def quality(self) -> dict[str, CaseQuality]:
        """Return what is known of each case's quality, by key; empty where none was measured."""
        return read_quality(self.folder, self.warnings)

    @cached_property
    def cases(self) -> dict[str, CaseInfo]:
        """Return the planned cases by key."""
        return {info.case.key: info for info in self.record.cases}

    def figures_of(self, key: str) -> CaseFigures:
        """Return what may be shown and judged of a case: the one place where samples become figures."""
        if key not in self._figures:
            self._figures[key] = self._figures_of(key)
        return self._figures[key]

    def _figures_of(self, key: str) -> CaseFigures:
        if self.simulated(key) or any(failure.reason.voids_figures for failure in self.failures.get(key, [])):
            return CaseFigures()
        return CaseFigures(self.recorded.get(key), self._loads_of(key), self.recorded_memory.get(key, []))

    def _loads_of(self, key: str) -> list[LoadRecord]:
        """Return a case's loads; a derived one's have the first inferences of the case whose generations it shares."""
        loads, source = self.loads.get(key, []), self.sources.get(key)
        if source is None:
            return loads
        first = {one.load: one.first_inference_ns for one in self.loads.get(source, []) if one.first_inference_ns}
        return [
            one.model_copy(update={"first_inference_ns": first[one.load]})
            if one.first_inference_ns is None and one.load in first
            else one
            for one in loads
        ]

    def simulated(self, key: str) -> bool:
        """Return whether a stand-in ran in place of the case's device, so that its times mean nothing."""
        loads = self.loads.get(key, [])
        return self.cases[key].case.simulate or bool(loads and loads[-1].executed_on in STAND_INS)

    @property
    def sample_count(self) -> int:
        """Return the number of samples of all cases."""
        return sum(len(columns) for columns in self.recorded.values())


def columns_of(run: Run) -> RunColumns:
    """Return a run that is already in memory in columns.

    Raises:
        BadInputError: a sample's times are not times.
    """
    builder = _ColumnsBuilder(run.folder / SAMPLES_NAME, keep_tokens=True)
    for number, sample in enumerate(run.samples, 1):
        builder.add_sample(_raw(sample), number)
    others: tuple[Other, ...] = (*run.loads, *run.memory, *run.failures)
    for other in others:
        builder.add_other(other)
    return builder.finish(run.folder, run.record, list(run.warnings))


def read_columns(path: Path, *, keep_tokens: bool = True) -> RunColumns:
    """Read a run from its folder or from either of its files.

    Without ``keep_tokens`` only the first and the last stamp of a sample are kept: a million samples then take
    some 100 MB. A last line that was cut off is left out, with a warning.

    Raises:
        BadInputError: not a run, damaged, written by a newer slmbench, or with times that are no times.
    """
    folder = folder_of(path)
    record = read_run_record(folder / RUN_NAME)
    source = folder / SAMPLES_NAME
    warnings: list[str] = []
    builder = _ColumnsBuilder(source, keep_tokens=keep_tokens)
    for number, raw in _lines(source, warnings):
        kind = raw.get("type")
        if kind == "sample":
            builder.add_sample(raw, number)
        elif isinstance(kind, str) and kind in _OTHERS:
            try:
                builder.add_other(_OTHERS[kind].model_validate(raw))
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"]))
                raise BadInputError(f"{source}:{number}: {place}: {first['msg']}") from error
        else:
            raise BadInputError(f"{source}:{number}: unknown type {kind!r}")
    if not record.finished:
        again = f"slmbench run --resume {shlex.quote(str(folder))}"
        warnings.append(f"{folder} was stopped before its end; `{again}` continues it")
    return builder.finish(folder, record, warnings)


def _lines(path: Path, warnings: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in sample_lines(path, warnings):
        try:
            raw = from_json(line, cache_strings="keys")
        except ValueError as error:
            raise BadInputError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise BadInputError(f"{path}:{number}: a JSON object is expected")
        yield number, raw


def _raw(sample: SampleRecord) -> dict[str, Any]:
    return {
        **dict(sample),
        "token_ns": list(sample.token_ns),
        "conditions": {"foreign_load": sample.conditions.foreign_load},
    }


class _ColumnsBuilder:
    def __init__(self, source: Path, *, keep_tokens: bool) -> None:
        self._source = source
        self._keep_tokens = keep_tokens
        self._cases: defaultdict[str, CaseArrays] = defaultdict(CaseArrays)
        self._sources: dict[str, str] = {}
        self._named: set[str] = set()
        self._others: dict[type, defaultdict[str, list[Any]]] = {kind: defaultdict(list) for kind in _OTHERS.values()}

    def add_sample(self, raw: dict[str, Any], number: int) -> None:
        """Add one sample; ``number`` is the line it stands on."""
        try:
            stamps = raw["token_ns"]
            case = self._cases[raw["case"]]
            self._check_times(stamps, number)
            self._check_counts(raw, number)
            into = case.ints
            into["load"].append(raw["load"])
            into["round"].append(raw["round"])
            into["first_ns"].append(stamps[0])
            into["last_ns"].append(stamps[-1])
            into["tokens"].append(len(stamps))
            into["image_tokens"].append(raw.get("image_tokens", 0))
            into["rows"].append(raw["batch"] * raw.get("answers", raw.get("samples", 1)))
            self._add_turns(case, stamps, raw.get("turn_start_ns") or [0], raw.get("turn_tokens") or [len(stamps)])
            foreign = (raw.get("conditions") or {}).get("foreign_load")
            case.floats["foreign_load"].append(math.nan if foreign is None else foreign)
            energy = raw.get("energy_j")
            case.floats["energy_j"].append(math.nan if energy is None else energy)
            for name, value in (raw.get("phases_ns") or {}).items():
                phase = case.phases[name]
                phase.extend([math.nan] * (len(case.disturbed) - len(phase)))
                phase.append(value)
            case.disturbed.append("foreign_load" in raw.get("flags", ()))
            source = raw.get("derived_from")
            case.derived.append(source is not None)
            if source is not None:
                if not isinstance(source, str):
                    raise TypeError("derived_from: the key of a case is expected")
                self._sources.setdefault(raw["case"], source)
                self._named.add(source)
            if self._keep_tokens:
                case.token_ns.extend(stamps)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise BadInputError(f"{self._source}:{number}: not a sample: {what}") from error

    @staticmethod
    def _add_turns(case: CaseArrays, stamps: Any, starts: Any, counts: Any) -> None:
        if len(starts) != len(counts) or sum(counts) != len(stamps) or min(counts) < 1 or min(starts) < 0:
            raise TypeError("turn_tokens: they do not add up to the tokens")
        first, gaps_ns, later = 0, 0, []
        for start, count in zip(starts, counts, strict=True):
            gaps_ns += stamps[first + count - 1] - stamps[first]
            later.append(stamps[first] - start)
            first += count
        case.ints["gaps"].append(len(stamps) - len(counts))
        case.ints["gaps_ns"].append(gaps_ns)
        case.ints["turns"].append(len(counts))
        case.turn_tokens.extend(counts)
        later = later[1:]
        case.floats["turn_first_ns"].append(sum(later) / len(later) if later else math.nan)
        case.floats["last_turn_first_ns"].append(later[-1] if later else math.nan)

    def _check_times(self, stamps: Any, number: int) -> None:
        if not stamps:
            raise BadInputError(f"{self._source}:{number}: token_ns: a sample without tokens")
        if stamps[0] <= 0:
            raise BadInputError(f"{self._source}:{number}: token_ns: a time of {stamps[0]} ns; times are positive")
        if stamps != sorted(stamps):
            raise BadInputError(f"{self._source}:{number}: token_ns: time runs backwards")
        if len(stamps) > 1 and stamps[-1] == stamps[0]:
            raise BadInputError(f"{self._source}:{number}: token_ns: {len(stamps)} tokens in no time")

    def _check_counts(self, raw: dict[str, Any], number: int) -> None:
        """Refuse what the schema refuses: samples are not validated one by one, for there may be a million."""
        counts = raw["load"], raw["round"], raw["batch"], raw["output_tokens"], raw["input_tokens"]
        found = *counts, raw.get("image_tokens", 0), raw.get("answers", 1), *(raw.get("phases_ns") or {}).values()
        if min(found) < 0 or max(found) > MOST_NATURAL:
            every = {name: raw[name] for name in _COUNTS if name in raw} | (raw.get("phases_ns") or {})
            name, value = next(one for one in every.items() if not 0 <= one[1] <= MOST_NATURAL)
            raise BadInputError(f"{self._source}:{number}: {name}: {value} is no count and no time in ns")
        if raw.get("image_tokens", 0) > raw["input_tokens"]:
            raise BadInputError(f"{self._source}:{number}: image_tokens: more than input_tokens, which include them")

    def add_other(self, record: Other) -> None:
        """Add a record that is no sample."""
        self._others[type(record)][record.case].append(record)

    def finish(self, folder: Path, record: RunRecord, warnings: list[str]) -> RunColumns:
        """Return the columns.

        Raises:
            BadInputError: a record of a case that the run does not list.
        """
        known = {info.case.key for info in record.cases}
        self._check_cases(known, self._cases, self._named, *self._others.values())
        return RunColumns(
            folder=folder,
            record=record,
            recorded={key: arrays.finish() for key, arrays in self._cases.items()},
            loads=dict(self._others[LoadRecord]),
            recorded_memory=dict(self._others[MemoryRecord]),
            failures=dict(self._others[FailureRecord]),
            warnings=warnings,
            sources=self._sources,
        )

    def _check_cases(self, known: set[str], *found: Iterable[str]) -> None:
        for keys in found:
            for key in keys:
                if key not in known:
                    raise BadInputError(f"{self._source}: records of a case that run.json does not list: {key}")
