"""The process that measures limits: ``python -m slmbench.machine.probe REQUEST OUTPUT``.

Engines are only loaded here, never in the command line's process. Each result is appended to OUTPUT as a line of JSON
as soon as it is there, so that an engine that crashes in one precision loses only that precision.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from slmbench.backend import LimitsProbe, ProbeGraph, ProbeShape, load_backend
from slmbench.errors import SlmbenchError, one_line
from slmbench.measure.conditions import ConditionsReader
from slmbench.system.processes import follow_host
from slmbench.terms import ComputePrecision, Device

if TYPE_CHECKING:
    from collections.abc import Callable

#: A limit is what the device does at best: the shortest of at least so many steps, over at least so long.
MINIMUM_STEPS = 7
MINIMUM_SPAN_S = 0.4


class ProbeTask(BaseModel):
    """One chain of products to time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    width: int
    layers: int
    compute_precision: ComputePrecision

    def shape(self) -> ProbeShape:
        """Return it as the backend takes it."""
        return ProbeShape(self.rows, self.width, self.layers)


class ProbeRequest(BaseModel):
    """What the process is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    device: Device
    threads: int
    tasks: tuple[ProbeTask, ...]


class ProbeResult(BaseModel):
    """How one task went: its shortest step, or why there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: None where it could not be measured.
    step_ns: int | None = None
    compute_precision: str | None = None
    executed_on: str | None = None
    refusal: str | None = None
    #: Cores that others kept busy meanwhile; None where not readable.
    foreign_load: float | None = None


def shortest_step_ns(step: Callable[[], None]) -> int:
    """Return the shortest of :data:`MINIMUM_STEPS` or more steps within :data:`MINIMUM_SPAN_S` or more, in ns."""
    shortest, count = sys.maxsize, 0
    begin = time.perf_counter_ns()
    while count < MINIMUM_STEPS or time.perf_counter_ns() - begin < MINIMUM_SPAN_S * 1e9:
        before = time.perf_counter_ns()
        step()
        shortest = min(shortest, time.perf_counter_ns() - before)
        count += 1
    return shortest


def run_task(request: ProbeRequest, task: ProbeTask, probe: LimitsProbe, conditions: ConditionsReader) -> ProbeResult:
    """Measure one task; what the engine refuses is a result too."""
    try:
        graph: ProbeGraph = probe.probe_graph(task.shape(), task.compute_precision, request.device, request.threads)
    except SlmbenchError as error:
        return ProbeResult(refusal=one_line(str(error)))
    except (ImportError, MemoryError) as error:
        return ProbeResult(refusal=one_line(f"{type(error).__name__}: {error}"))
    conditions.before()
    step_ns = shortest_step_ns(graph.step)
    return ProbeResult(
        step_ns=step_ns,
        compute_precision=graph.compute_precision,
        executed_on=graph.executed_on,
        foreign_load=conditions.after().foreign_load,
    )


def main(arguments: list[str]) -> None:
    """Answer the request in ``arguments[0]`` (JSON) with lines in the file ``arguments[1]``."""
    request = ProbeRequest.model_validate_json(arguments[0])
    probe = load_backend(request.backend)
    assert isinstance(probe, LimitsProbe)
    conditions = ConditionsReader()
    with Path(arguments[1]).open("a", encoding="utf-8") as output:
        for task in request.tasks:
            output.write(run_task(request, task, probe, conditions).model_dump_json() + "\n")
            output.flush()


if __name__ == "__main__":
    follow_host()
    main(sys.argv[1:])
