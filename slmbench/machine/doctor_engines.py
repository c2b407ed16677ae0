"""What a doctor looks at in the engines: versions that do not fit, refused devices, instruction sets in use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from slmbench.errors import amount, one_line
from slmbench.machine.devices import DeviceRow, Devices, list_devices
from slmbench.machine.finding import Finding
from slmbench.machine.fingerprint import ENGINES, Fingerprint
from slmbench.records.limits import Limits
from slmbench.system.files import read_regular
from slmbench.system.paths import cache_dir

#: The newest version of each engine that this slmbench was run with.
NEWEST_TRIED: Mapping[str, str] = {
    "ctranslate2": "4.8.5",
    "llama-cpp-python": "0.3.36",
    "onnxruntime": "1.32.0",
    "onnxruntime-genai": "0.18.0",
    "onnxruntime-qnn": "2.7.0",
    "openvino": "2026.4.1",
    "openvino-genai": "2026.4.1.0",
    "openvino-tokenizers": "2026.4.1.0",
    "torch": "2.14.1",
}
#: Instruction sets that decide how fast a precision is, and the names that systems give their parts.
INSTRUCTION_SETS: Mapping[str, str] = {
    "AMX": r"amx\w*",
    "VNNI or int8 dot products": r"avx512_?vnni|avx_vnni\w*|asimddp|i8mm|svei8mm",
    "bf16": r"avx512_?bf16|amx_?bf16|avx_ne_convert|bf16|svebf16|feat_bf16",
    "fp16": r"avx512_?fp16|amx_?fp16|asimdhp|fphp|feat_fp16",
}


@dataclass(frozen=True)
class EngineSight:
    """What was seen of the engines."""

    flags: tuple[str, ...] = ()
    #: None where they were not asked.
    devices: Devices | None = None
    limits: tuple[Limits, ...] = ()
    #: By distribution.
    installed: Mapping[str, str] = field(default_factory=dict)
    #: Requirements that the installed versions do not meet: who, what it needs, what is there.
    unmet: tuple[tuple[str, str, str], ...] = ()


def look_at_engines(fingerprint: Fingerprint) -> EngineSight:
    """Ask every engine in a process of its own; takes as long as the slowest one's import, some seconds."""
    installed = installed_engines()
    return EngineSight(
        flags=fingerprint.hardware.cpu_flags,
        devices=list_devices(),
        limits=kept_limits(fingerprint.digest()),
        installed=installed,
        unmet=tuple(unmet_requirements([*installed, "slmbench"])),
    )


def installed_engines() -> dict[str, str]:
    """Return the version of each engine that is installed here."""
    return {name: found for name in ENGINES if (found := _version(name))}


def unmet_requirements(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return what these distributions, and slmbench for its extras, need of engines and the installed ones are not."""
    found = []
    for name in names:
        for needed in _requirements(name):
            there = _version(needed.name)
            if there and not needed.specifier.contains(there, prereleases=True):
                found.append((name, f"{needed.name}{needed.specifier}", there))
    return list(dict.fromkeys(found))


def _requirements(name: str) -> Iterator[Requirement]:
    """Yield what a distribution needs of engines; of slmbench what any of its extras does."""
    try:
        owner = distribution(name)
    except PackageNotFoundError:
        return
    extras = [*(owner.metadata.get_all("Provides-Extra") or ())] if name == "slmbench" else []
    for line in owner.requires or ():
        try:
            needed = Requirement(line)
        except InvalidRequirement:
            continue
        applies = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ["", *extras])
        if applies and needed.name.lower().replace("_", "-") in ENGINES:
            yield needed


def _version(name: str) -> str:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return ""


def kept_limits(machine: str) -> tuple[Limits, ...]:
    """Return what was measured of the engines on the machine of that fingerprint; damaged files are left out."""
    found = []
    for path in sorted((cache_dir() / "limits").glob("**/*.json")):
        try:
            limits = Limits.model_validate_json(read_regular(path))
        except (OSError, ValidationError):
            continue
        if limits.machine == machine:
            found.append(limits)
    newest = {(one.engine, one.device): one for one in sorted(found, key=lambda one: one.measured)}
    return tuple(newest.values())


def judge_engines(sight: EngineSight) -> list[Finding]:
    """Return what keeps engines from running here, or makes them slower than they could be."""
    return [*_wheels(sight), *_versions(sight), *_refused(sight), *_instructions(sight)]


def _wheels(sight: EngineSight) -> Iterator[Finding]:
    for who, needs, there in sight.unmet:
        yield Finding(
            name="mismatched wheels",
            severity="wrong",
            what=f"{who} needs {needs}, and {there} is installed",
            why="engines built for another version refuse to start, or compute something else",
            remedy=f"pip install '{needs}'",
        )


def _versions(sight: EngineSight) -> Iterator[Finding]:
    behind = [
        f"{name} {there} (newest tried: {NEWEST_TRIED[name]})"
        for name, there in sight.installed.items()
        if name in NEWEST_TRIED and _older(there, NEWEST_TRIED[name])
    ]
    if behind:
        yield Finding(
            name="older engines",
            severity="note",
            what=f"older than what this slmbench was run with: {', '.join(behind)}",
            why="engines get faster with most releases, and take more models",
            remedy="upgrade them, unless the older version is what you measure",
        )


def _older(there: str, newest: str) -> bool:
    try:
        return Version(there).release < Version(newest).release
    except InvalidVersion:
        return False


def _refused(sight: EngineSight) -> Iterator[Finding]:
    if sight.devices is None:
        return
    for name, reason in sight.devices.broken.items():
        missing = _lacks_package(reason)
        yield Finding(
            name="engine missing" if missing else "engine broken",
            severity="note" if missing else "wrong",
            what=f"{name} cannot run here: {one_line(reason)}",
            why="its cases are left out of a run, with this reason",
            remedy="docs/backends.md says how each engine is installed"
            if missing
            else f"reinstall the engine of {name}",
        )
    usable = {row.device for row in sight.devices.rows if row.available}
    present = " ".join(sight.devices.system)
    refused = [row for row in sight.devices.rows if not row.available and row.remedy]
    undriven = [row for row in refused if row.device not in usable and _is_there(row, present)]
    for row in undriven:
        yield Finding(
            name="missing driver",
            severity="noise",
            what=f"{_row_name(row)}: {one_line(row.detail)}",
            why="the system lists such a device, and no engine can use it",
            remedy=row.remedy,
        )
    others = [row for row in refused if row not in undriven]
    unasked = [row for row in others if _lacks_package(row.detail)]
    if absent := [row for row in others if row not in unasked]:
        yield Finding(
            name="refused devices",
            severity="note",
            what=f"{amount(len(absent), 'device')} that engines looked for cannot be used here: {_row_names(absent)}",
            why="no such device, no driver for it, or an engine built without it; a run that asks for one refuses "
            "those cases",
            remedy="slmbench devices says what each needs",
        )
    if unasked:
        yield Finding(
            name="devices not looked for",
            severity="note",
            what=f"{amount(len(unasked), 'device')} of engines that are not installed: {_row_names(unasked)}",
            why="whether they are here, only the engine's package can tell",
            remedy="slmbench devices says which package each needs",
        )


def _lacks_package(reason: str) -> bool:
    return "not installed" in reason or "No module named" in reason


def _row_names(rows: Sequence[DeviceRow]) -> str:
    return ", ".join(dict.fromkeys(map(_row_name, rows)))


def _row_name(row: DeviceRow) -> str:
    return f"{row.device} {row.engine_name}{f' ({row.backend})' if row.backend else ''}"


def _is_there(row: DeviceRow, present: str) -> bool:
    """Return whether the system lists a device of that kind at all."""
    kind = r"\bgpu\b|nvidia|radeon|geforce|arc\b" if row.device == "gpu" else r"\bnpu\b|neural|hexagon|xdna"
    return row.device != "cpu" and re.search(kind, present, re.IGNORECASE) is not None


def _instructions(sight: EngineSight) -> Iterator[Finding]:
    seen: list[str] = []
    lacking: list[str] = []
    for name, pattern in INSTRUCTION_SETS.items():
        parts = [flag for flag in sight.flags if re.fullmatch(pattern, flag)]
        (seen if parts else lacking).append(f"{name} ({', '.join(parts)})" if parts else name)
    if not sight.flags:
        return
    used = [line for limits in sight.limits if limits.device == "cpu" for line in _used(limits)]
    said = "; ".join(used) or "What engines make of them was not measured here yet"
    yield Finding(
        name="instruction sets",
        severity="note",
        what=f"this processor has {_has(seen, lacking)}. {said}",
        why="a precision that an engine computes in another one is not faster, only smaller; int8 and int4 have no "
        "rate of their own here",
        remedy="slmbench limits --backend NAME measures an engine; `weights / compute` in a run's table, or in the "
        "line above it, says what took effect",
    )


def _has(seen: Sequence[str], lacking: Sequence[str]) -> str:
    """Return ``A and B, and none of: C, D``."""
    none = f"none of: {', '.join(lacking)}" if lacking else ""
    return ", and ".join(filter(None, (", ".join(seen), none)))


def _used(limits: Limits) -> Iterator[str]:
    """Yield what an engine computes each precision in, and how fast, as measured."""
    plain = limits.matrix.get("fp32")
    for precision, rate in limits.matrix.items():
        if precision == "fp32" or plain is None:
            continue
        times = f"{rate.flops_per_s / plain.flops_per_s:.1f}x the rate of fp32"
        own = "" if rate.effective == precision else f" as {rate.effective}"
        yield f"{limits.engine} computes {precision}{own} at {times}"
    if limits.refused:
        yield f"{limits.engine} computes in {', '.join(limits.matrix)} only, not in {' or '.join(limits.refused)}"
