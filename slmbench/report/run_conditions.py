"""Under which conditions a run was measured, in words: machine, engines, settings, how quiet it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from slmbench.errors import amount, one_line
from slmbench.records.sample_arrays import RunColumns


def conditions(run: RunColumns) -> list[str]:
    """Return sentences about what the figures depend on, from the run's record and its samples."""
    record = run.record
    sentences = []
    for arm, machine in record.machines.items():
        of_arm = f"Arm {arm}: " if arm else ""
        sentences += [f"{of_arm}{line}" for line in _machine(machine, record.versions.get(arm, {}))]
    return [one_line(line) for line in [*sentences, *_asked(run), *_seen(run)]]


def _machine(machine: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[str]:
    hardware, soft = machine.get("hardware", {}), machine.get("soft", {})
    if hardware:
        cores = amount(hardware.get("physical_cores", 0), "core")
        parts = [
            f"{hardware.get('cpu_model', 'unknown processor')}, {cores}",
            f"{hardware['memory_gib']} GiB of memory" if hardware.get("memory_gib") else "",
            " ".join(filter(None, (hardware.get("os"), soft.get("kernel"), hardware.get("arch")))),
            f"a guest of a hypervisor ({hardware['hypervisor']})" if hardware.get("hypervisor") else "",
            f"emulated by {hardware['emulator']}" if hardware.get("emulator") else "",
            f"clock governor {hardware['governor']}" if hardware.get("governor") else "",
            f"a quota of {hardware['cpu_quota_cores']:g} cores' time" if hardware.get("cpu_quota_cores") else "",
        ]
        yield f"Machine: {', '.join(filter(None, parts))}."
    engines = machine.get("software", {}).get("engines", {}) | versions
    if engines:
        python = f"; Python {soft['python']}" if soft.get("python") else ""
        yield f"Versions: {', '.join(f'{name} {number}' for name, number in engines.items())}{python}."
    variables = machine.get("software", {}).get("environment", {})
    if variables:
        yield f"Set in the environment: {', '.join(f'{name}={value}' for name, value in variables.items())}."


def _asked(run: RunColumns) -> Iterator[str]:
    record = run.record
    options = record.options
    settings = dict.fromkeys(info.case.settings for info in record.cases)
    shipped = "each engine's own defaults" if set(settings) == {"shipped"} else "the asked precision on every engine"
    both = " and ".join(settings) if len(settings) > 1 else ""
    time = f"{options['budget_s']:g} s were over" if options.get("budget_s") else "the time for it was over"
    stop = f"until its intervals were narrow enough, or {time}"
    stop = f"in {amount(options['repeat'], 'load')}" if options.get("repeat") else stop
    timed = f"Each case was measured {stop}"
    if all(run.simulated(info.case.key) for info in record.cases):
        timed = "Another device stood in for the one asked for: tokens and placement were checked, nothing was timed"
    yield f"Settings: {both or shipped}. {timed}. Seed {record.seed}."
    if len(record.blocks) > 1:
        yield f"Not all cases fitted into memory at once: they were measured in {len(record.blocks)} groups."


def _seen(run: RunColumns) -> Iterator[str]:
    measured = [run.recorded[info.case.key] for info in run.record.cases if info.case.key in run.recorded]
    counts = [len(np.unique(columns.load)) for columns in measured if len(columns)]
    if not counts:
        return
    loads = amount(counts[0], "load") if min(counts) == max(counts) else f"{min(counts)} to {max(counts)} loads"
    disturbed = float(np.concatenate([columns.disturbed for columns in measured]).mean())
    noise = f"other processes disturbed {disturbed:.0%} of all samples" if disturbed else "no sample was disturbed"
    yield f"Each case was measured in {loads}, each a process of its own, in random order with the others; {noise}."
    outcomes = run.record.outcomes.values()
    wide = sum(bool(one.converged) and not all(one.converged.values()) for one in outcomes)
    if wide:
        yield f"{wide} of {amount(len(run.record.cases), 'case')} not converged: their intervals are wider than asked."


def facts(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return what a record holds as names and words on one line each; what it does not know is left out."""
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        title = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            found += facts(value, f"{title}: ")
        elif text := _words(value):
            found.append((title, one_line(text)))
    return found


def _words(value: object) -> str:
    """Return a value as people write it, empty for one that says nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        parts = ((str(name).replace("_", " "), _words(inner)) for name, inner in value.items())
        return ", ".join(f"{name} {text}" for name, text in parts if text)
    if isinstance(value, Sequence) and not isinstance(value, str):
        nested = any(isinstance(entry, Mapping | list | tuple) for entry in value)
        return ("; " if nested else ", ").join(filter(None, map(_words, value)))
    return "" if value is None else str(value)
