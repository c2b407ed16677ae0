"""A machine's work, in a process of its own: ``python -m slmbench.fleet.machine_job plan|make|measure [FOLDER]``.

What is asked comes as JSON on standard input. Planning, exporting and measuring are those of ``slmbench run``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from slmbench.errors import ERROR_PREFIX, SlmbenchError, one_line
from slmbench.fleet.job_progress import TallyWriter
from slmbench.fleet.making import localized, make, needs
from slmbench.fleet.messages import Planned, Wanted
from slmbench.plan.judged_together import judged_together
from slmbench.plan.request import RunRequest, plan_request
from slmbench.records.schema import RUN_NAME
from slmbench.system.processes import follow_host


def planned(request: RunRequest) -> Planned:
    """Return what of the request this machine would measure; an empty plan says why."""
    try:
        plan, _ = plan_request(localized(request))
    except SlmbenchError as error:
        return Planned(left_out=tuple(one_line(line) for line in str(error).splitlines()))
    left_out = tuple(f"{o.checkpoint} on {o.backend} {o.device}: {one_line(o.reason)}" for o in plan.left_out)
    keys = tuple(cell.case.key for cell in plan.cells)
    places = {key: place for place, key in enumerate(keys)}
    blocks = judged_together([(cell.case, cell.engine) for cell in plan.cells], plan.suite.pairs)
    return Planned(
        keys=keys,
        blocks=tuple(tuple(places[key] for key in block) for block in blocks),
        left_out=left_out,
        needs=needs(plan),
    )


def measure(request: RunRequest, folder: Path) -> None:
    """Measure here, or go on with what the folder holds."""
    from slmbench.running.runner import execute

    began = (folder / RUN_NAME).exists()
    place = {"resume": folder} if began else {"out": folder}
    execute(localized(request).model_copy(update=place), observer=TallyWriter(folder))


def main(arguments: list[str]) -> int:
    """Run one of the three and return the exit code."""
    follow_host()
    what, asked = arguments[0], sys.stdin.buffer.read()
    if what == "plan":
        print(planned(RunRequest.model_validate_json(asked)).model_dump_json())
        return 0
    try:
        if what == "make":
            make(Wanted.model_validate_json(asked))
        else:
            measure(RunRequest.model_validate_json(asked), Path(arguments[1]))
    except SlmbenchError as error:
        print(f"{ERROR_PREFIX}{one_line(str(error))}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
