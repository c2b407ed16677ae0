"""Sides of a comparison as people name them: a run's folder, one of its files, ``RUN@ARM``, a baseline file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from slmbench.analysis.baseline import is_baseline, read_baseline
from slmbench.analysis.metrics import Side, SideCase, arms_of, side_of
from slmbench.errors import BadInputError, nearest
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import FLEET_NAME, RUN_NAME, SAMPLES_NAME


def read_sides(names: Sequence[str], *, arms: Sequence[str] = (), keep_tokens: bool = False) -> list[Side]:
    """Return the sides that were named, the base first.

    A single run stands for its arms; ``arms`` chooses some of them, the base first.

    Raises:
        BadInputError: not a run or baseline, no such arm, or fewer than two sides.
        NotComparableError: an empty run.
    """
    if len(names) == 1 and not is_baseline(Path(names[0])) and "@" not in Path(names[0]).name:
        run = read_columns(Path(names[0]), keep_tokens=keep_tokens)
        chosen = list(arms) or arms_of(run)
        if len(chosen) < 2:
            has = f"has {len(chosen)} of them" if chosen else "has none"
            raise BadInputError(f"{names[0]}: a single run is compared by its arms, and this one {has}; name two runs")
        return distinct([_side_of_run(run, arm, arm) for arm in chosen])
    if arms:
        raise BadInputError("--arms goes with a single run; write RUN@ARM for several")
    if len(names) < 2:
        raise BadInputError(f"{names[0] if names else 'nothing'}: two sides or more are compared")
    runs: dict[Path, RunColumns] = {}
    return distinct([read_side(name, runs=runs, keep_tokens=keep_tokens) for name in names])


def read_side(name: str, *, runs: dict[Path, RunColumns] | None = None, keep_tokens: bool = False) -> Side:
    """Return one side by name. ``runs`` keeps what was read, for several arms of one run.

    Raises:
        BadInputError: not a run or baseline, or no such arm.
        NotComparableError: an empty run.
    """
    path, arm = _split_arm(name)
    if path.is_file() and path.name not in (RUN_NAME, SAMPLES_NAME):
        if arm is not None:
            raise BadInputError(f"{name}: {path.name} is a file, and only runs have arms; leave out @{arm}")
        return read_baseline(path)
    if not path.exists():
        raise BadInputError(f"{path}: no such run, file or baseline")
    if is_fleet(path):
        raise BadInputError(f"{path}: is a fleet's run; name one machine's, in {path / 'machines'}")
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    kept = runs if runs is not None else {}
    if folder not in kept:
        kept[folder] = read_columns(path, keep_tokens=keep_tokens)
    run = kept[folder]
    arms = arms_of(run)
    if arms and arm is None:
        raise BadInputError(f"{path}: has arms; write {path}@{arms[0]} (arms: {', '.join(arms)})")
    return _side_of_run(run, f"{folder.name}@{arm}" if arm else folder.name, arm)


def _side_of_run(run: RunColumns, name: str, arm: str | None) -> Side:
    return replace(side_of(run, name, arm), takes_more_loads=True)


def _split_arm(name: str) -> tuple[Path, str | None]:
    path = Path(name)
    if path.exists() or "@" not in path.name:
        return path, None
    stem, _, arm = name.rpartition("@")
    return Path(stem), arm


def distinct(sides: Sequence[Side]) -> list[Side]:
    """Give sides of equal names numbers, so that a table can tell them apart."""
    names = [side.name for side in sides]
    return [
        replace(side, name=f"{side.name} ({index})") if names.count(side.name) > 1 else side
        for index, side in enumerate(sides, 1)
    ]


def is_fleet(name: str | Path) -> bool:
    """Return whether that is the folder of a fleet's run, or its ``fleet.json``."""
    path = Path(name)
    return (path / FLEET_NAME).is_file() or (path.name == FLEET_NAME and path.is_file())


#: What ``--where`` and ``--sort`` know of a case.
FIELDS: dict[str, Callable[[SideCase], str | int]] = {
    "model": lambda c: c.case.checkpoint,
    "family": lambda c: c.model.family,
    "parameters": lambda c: c.model.parameter_count,
    "backend": lambda c: c.case.backend,
    "engine": lambda c: c.model.engine,
    "device": lambda c: c.case.device,
    "precision": lambda c: c.case.weight_precision,
    "compute": lambda c: c.case.compute_precision,
    "settings": lambda c: c.case.settings,
    "attention": lambda c: c.model.attention_path or "",
    "exporter": lambda c: c.case.exporter,
    "layout": lambda c: c.case.layout,
    "batch": lambda c: c.case.workload.batch,
    "input": lambda c: c.case.workload.input_tokens,
    "output": lambda c: c.case.workload.output_tokens,
    "turns": lambda c: c.case.workload.turns,
    "answers": lambda c: c.case.workload.answers,
    "cache": lambda c: c.case.workload.cache,
}


def field_named(name: str, *more: str) -> str:
    """Return a field's name if there is such a field.

    Raises:
        BadInputError: there is none.
    """
    known = [*FIELDS, *more]
    # As version 0.2 called it.
    name = "answers" if name == "samples" else name
    if name not in known:
        raise BadInputError(f"unknown field '{name}'. Known: {', '.join(known)}.{nearest(name, known)}")
    return name


def where(sides: Sequence[Side], conditions: Sequence[str]) -> list[Side]:
    """Return the sides with only the cases that fulfil every ``FIELD=GLOB`` or ``FIELD!=GLOB``; GLOB,GLOB means either.

    Raises:
        BadInputError: no such field, a condition that is none, or no case of any side fulfils them all.
    """
    found = chosen(sides, conditions)
    if any(side.cases for side in sides) and not any(side.cases for side in found):
        raise BadInputError(_no_match(sides, conditions))
    return found


def chosen(sides: Sequence[Side], conditions: Sequence[str]) -> list[Side]:
    """Return the sides as :func:`where` does, also where nothing is left: other sides may have what is asked for.

    Raises:
        BadInputError: no such field, or a condition that is none.
    """
    for name, unequal, patterns in map(_condition, conditions):
        sides = [
            replace(
                side,
                cases={
                    key: case
                    for key, case in side.cases.items()
                    if any(fnmatchcase(str(FIELDS[name](case)), one) for one in patterns) != unequal
                },
            )
            for side in sides
        ]
    return list(sides)


def _no_match(sides: Sequence[Side], conditions: Sequence[str]) -> str:
    """Return that no case fulfils the conditions: the one to blame with the nearest value that there is."""
    for condition in conditions:
        if any(side.cases for side in chosen(sides, [condition])):
            continue
        name, _, patterns = _condition(condition)
        values = list(dict.fromkeys(str(FIELDS[name](case)) for side in sides for case in side.cases.values()))
        hint = nearest(patterns[-1], values) or f" {name} is {', '.join(values[:_SHOWN_VALUES])} here."
        return f"no case matches --where {condition}.{hint}"
    return f"no case matches --where {' --where '.join(conditions)} together"


#: Values of a field that a message about a wrong one names.
_SHOWN_VALUES = 5


def _condition(text: str) -> tuple[str, bool, list[str]]:
    name, equals, pattern = text.partition("=")
    unequal = name.endswith("!")
    if not equals or not pattern:
        raise BadInputError(f"--where {text}: FIELD=GLOB or FIELD!=GLOB is expected")
    # The whole as well: a comma may be part of a name, or stand in [brackets].
    return field_named(name.rstrip("!")), unequal, [pattern, *(one.strip() for one in pattern.split(","))]
