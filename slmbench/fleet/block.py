"""A machine's block of cases, in a process of its own: ``python -m slmbench.fleet.block plan|measure [FOLDER]``.

The request comes as JSON on standard input. Planning and measuring are those of ``slmbench run``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from slmbench.children import follow_host
from slmbench.errors import ERROR_PREFIX, SlmbenchError, one_line
from slmbench.fleet.messages import Planned
from slmbench.records import RUN_NAME
from slmbench.request import RunRequest, plan_request


def planned(request: RunRequest) -> Planned:
    """Return what of the request this machine would measure; an empty plan says why."""
    try:
        plan, _ = plan_request(request)
    except SlmbenchError as error:
        return Planned(left_out=tuple(one_line(line) for line in str(error).splitlines()))
    left_out = tuple(f"{o.checkpoint} on {o.backend} {o.device}: {one_line(o.reason)}" for o in plan.left_out)
    return Planned(keys=tuple(cell.case.key for cell in plan.cells), left_out=left_out)


def measure(request: RunRequest, folder: Path) -> None:
    """Measure here, or go on with what the folder holds."""
    from slmbench.runner import execute

    began = (folder / RUN_NAME).exists()
    execute(request.model_copy(update={"resume": folder} if began else {"out": folder}))


def main(arguments: list[str]) -> int:
    """Run one of the two and return the exit code."""
    follow_host()
    request = RunRequest.model_validate_json(sys.stdin.buffer.read())
    if arguments[0] == "plan":
        print(planned(request).model_dump_json())
        return 0
    try:
        measure(request, Path(arguments[1]))
    except SlmbenchError as error:
        print(f"{ERROR_PREFIX}{one_line(str(error))}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
