"""What the limits of a device allow: the share of them that was used, and the shortest time a generation can take.

A phase can be no faster than its operations at the matrix rate, nor than its bytes at the read bandwidth (the
roofline: Williams, Waterman & Patterson 2009). How limits are measured is :mod:`slmbench.machine.limits`' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from slmbench.case import Case
from slmbench.models import cost_model
from slmbench.records.limits import Limits
from slmbench.records.schema import CaseInfo, LoadRecord
from slmbench.terms import COMPUTE_PRECISIONS, ComputePrecision

#: A bandwidth this many times memory's is the work of a cache, not of noise.
_CACHED = 1.05
#: Bytes of an element of K or V by compute precision; where only products quantise their input, K/V stay fp32.
_KV_BYTES: dict[ComputePrecision, float] = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int16": 2.0, "int8": 4.0}

#: Bytes by the backends' option `kv_cache`; scales of quantised K/V are left out.
_KV_CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "u8": 1.0, "i8": 1.0, "u4": 0.5, "i4": 0.5}


def computed_in(case: Case, loads: Sequence[LoadRecord]) -> ComputePrecision | None:
    """Return what the case computes in: what is asked, or with shipped settings what its last load reported."""
    if case.compute_precision != "default":
        return case.compute_precision
    reported = loads[-1].compute_precision if loads else None
    return next((one for one in COMPUTE_PRECISIONS if one == reported), None)


#: What engines call the type of their K/V, where they say it.
_KV_SETTINGS = ("KV_CACHE_PRECISION", "kv_cache")


def kv_bytes(case: Case, loads: Sequence[LoadRecord] = ()) -> float | None:
    """Return the bytes of an element of K or V: what `kv_cache` asks for, else by the compute precision.

    With shipped settings by what the last load reported; None where that is not known.
    """
    asked = _KV_CACHE_BYTES.get(dict(case.options).get("kv_cache", "").lower())
    if asked is not None:
        return asked
    if case.compute_precision == "default":
        settings, compute = loads[-1].settings if loads else {}, computed_in(case, loads)
        told = next((settings[name] for name in _KV_SETTINGS if name in settings), "")
        return _KV_CACHE_BYTES.get(told, _KV_BYTES[compute] if compute else None)
    # llama.cpp has them in half precision with 8-bit products.
    return 2.0 if case.format == "gguf" and case.compute_precision == "int8" else _KV_BYTES[case.compute_precision]


#: Between the notes of one explanation; no note has it within.
NOTE_SEPARATOR = "; "


@dataclass(frozen=True)
class Use:
    """How much of a limit was used; ``share`` beyond 1.0 never comes without an explanation."""

    share: float
    #: The limit it was held against, in bytes/s or operations/s.
    limit: float
    explanation: str | None = None


def bandwidth_use(decode_step_bytes: float, tpot_ns: float, limits: Limits) -> Use | None:
    """Return how much of the read bandwidth decoding uses: bytes a step must read ÷ tpot ÷ bandwidth.

    The bandwidth is that measured at the size of the step's bytes; where a cache makes it higher than memory's,
    the explanation says so. None where there is nothing to divide.
    """
    if tpot_ns <= 0 or decode_step_bytes <= 0 or not limits.bandwidth:
        return None
    memory, local = limits.memory_bandwidth(), limits.bandwidth_at(decode_step_bytes)
    share = decode_step_bytes / tpot_ns * 1e9 / local
    notes = []
    if local > _CACHED * memory:
        # A measurement that others disturbed differs by as much between two sizes that are both in memory.
        cached = "" if limits.disturbed else ", as the cache holds them at least in part"
        notes.append(f"the limit is the rate of reading the few bytes of one step, higher than for more bytes{cached}")
    notes += _doubts(limits, share)
    return Use(share, local, NOTE_SEPARATOR.join(notes) or None)


def compute_use(flops: float, duration_ns: float, limits: Limits, precision: ComputePrecision | None) -> Use | None:
    """Return how much of the matrix rate was used: operations ÷ duration ÷ rate in that compute precision.

    None where the engine has no such rate, or there is nothing to divide.
    """
    rate = limits.matrix.get(precision) if precision else None
    if rate is None or duration_ns <= 0 or flops <= 0:
        return None
    share = flops / duration_ns * 1e9 / rate.flops_per_s
    return Use(share, rate.flops_per_s, NOTE_SEPARATOR.join(_doubts(limits, share)) or None)


def _doubts(limits: Limits, share: float) -> list[str]:
    """Return why the limit itself may be wrong: a share above 1 shows it, other processes make it likely."""
    again = f"`slmbench limits --backend {limits.engine} --again` measures it again"
    above = [f"above the limit, which was measured {limits.measured}"] if share > 1 else []
    if limits.disturbed:
        used = f"other processes used {limits.foreign_load or 0:.1f} cores while it was measured"
        return [*above, f"the limit may be too low, as {used}: {again}"]
    return [f"{one}: {again}" for one in above]


def limits_of_case(info: CaseInfo, limits: Mapping[str, Any]) -> Limits | None:
    """Return the limits of the case's engine on its device (``engine|device``), if the run kept them."""
    try:
        return Limits.model_validate(limits[f"{info.engine}|{info.case.device}"])
    except (KeyError, ValidationError):
        return None


def cost_unknown(info: CaseInfo) -> str | None:
    """Return why what a case must compute does not follow from its model's sizes, or None."""
    vision = info.checkpoint.vision if info.case.workload.images else None
    return info.checkpoint.geometry.cost_unknown or (vision.cost_unknown if vision else None)


def tiles_of(info: CaseInfo, image_tokens: int | None) -> int:
    """Return how many tiles of pictures a sample reads: by its image tokens, else one a picture."""
    vision, work = info.checkpoint.vision, info.case.workload
    if vision is None or not work.images or image_tokens is None:
        return work.images
    return image_tokens // vision.for_picture(work.image_size).prompt_tokens_per_tile


def costs_of(info: CaseInfo, loads: Sequence[LoadRecord], image_tokens: int | None = None) -> dict[str, float]:
    """Return what the model must compute and move (:mod:`slmbench.models.cost_model`); empty where it is not known."""
    if cost_unknown(info) is not None:
        return {}
    kv = kv_bytes(info.case, loads)
    phases = cost_model.phases(
        info.checkpoint, info.case.workload, kv_bytes=kv or 0.0, tiles=tiles_of(info, image_tokens)
    )
    costs: dict[str, float] = {"first_token_flops": sum(p.flops for p in phases if p.name != "decode_step")}
    for step in phases:
        if step.name == "decode_step" and info.case.workload.cache == "on":
            costs["step_flops"] = step.flops
            if info.decode_weight_bytes is not None and kv is not None:
                costs["step_bytes"] = info.decode_weight_bytes + step.kv_read_bytes + step.kv_written_bytes
    return costs


def shortest_times(
    info: CaseInfo, limits: Limits, loads: Sequence[LoadRecord] = (), image_tokens: int | None = None
) -> dict[str, float]:
    """Return the shortest ``ttft`` and ``tpot`` in s that the limits allow the case; each only where it is known.

    A phase takes the longer of operations ÷ matrix rate and bytes ÷ read bandwidth, phases follow each other. What a
    call costs, normalisations and the exponentials of attention are not in it: measured times are longer.
    """
    case, weights = info.case, cost_model.decode_weights(info.checkpoint.geometry)
    compute, kv = computed_in(case, loads), kv_bytes(case, loads)
    rate = limits.matrix.get(compute) if compute else None
    if rate is None or kv is None or info.decode_weight_bytes is None or not limits.bandwidth:
        return {}
    if cost_unknown(info) is not None:
        return {}
    phases = cost_model.phases(
        info.checkpoint,
        case.workload,
        weight_bytes=info.decode_weight_bytes / weights,
        kv_bytes=kv,
        tiles=tiles_of(info, image_tokens),
    )
    times = {
        phase.name: max(phase.flops / rate.flops_per_s, phase.bytes / limits.bandwidth_at(phase.bytes))
        for phase in phases
    }
    step = times.pop("decode_step", None)
    return {"ttft": math.fsum(times.values())} | ({"tpot": step} if step is not None else {})
