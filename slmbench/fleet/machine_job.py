"""A machine's work, in a process of its own: ``python -m slmbench.fleet.machine_job plan|make|measure [FOLDER]``.

The request comes as JSON on standard input. It plans, exports and measures as ``slmbench run`` does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO, Literal

from slmbench.errors import ERROR_PREFIX, BadInputError, CannotRunError, SlmbenchError, one_line
from slmbench.export.artifact_store import find_artifact
from slmbench.export.routes import missing_libraries, refusal
from slmbench.fleet.job_progress import TallyWriter
from slmbench.fleet.messages import Needed, Planned, Wanted
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint, how_resolved, resolve
from slmbench.plan.configuration import merged
from slmbench.plan.judged_together import judged_together
from slmbench.plan.planner import Plan
from slmbench.plan.request import RunRequest, check_one_machine, plan_request
from slmbench.records.refusals import refusal_lines
from slmbench.records.schema import RUN_NAME
from slmbench.system.processes import child_environment, follow_host

#: The interpreter's arguments. -P: a folder named slmbench where the worker was started is not the package.
JOB = ("-P", "-m", "slmbench.fleet.machine_job")
#: Another argument: who started the machine lets it run a checkpoint's own code.
TRUSTING = "--trust-remote-code"


def start_job(*arguments: str, asked: bytes, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start this module as a process that ends with this one, pass it the request, and return it."""
    child = subprocess.Popen(
        [sys.executable, *JOB, *arguments], stdin=subprocess.PIPE, stdout=log, stderr=log, env=child_environment()
    )
    assert child.stdin is not None
    child.stdin.write(asked)
    child.stdin.close()
    return child


def forbidden(request: RunRequest | Wanted, *, trusting: bool) -> str | None:
    """Return which code a client wants to run that the machine's owner does not allow; None where there is none."""
    if isinstance(request, RunRequest) and request.arms:
        return "--arm names interpreters of one machine; a machine of a fleet starts none that it is sent"
    if request.trust_remote_code and not trusting:
        return f"does not run a checkpoint's own code; `slmbench fleet worker {TRUSTING}` on it allows that"
    return None


def planned(request: RunRequest) -> Planned:
    """Return the part of the request that this machine would measure; an empty plan says why."""
    try:
        plan, _ = plan_request(localized(request))
    except SlmbenchError as error:
        return Planned(left_out=tuple(one_line(line) for line in str(error).splitlines()))
    left_out = tuple(one_line(line) for line in refusal_lines(plan.refusals))
    keys = tuple(cell.case.key for cell in plan.cells)
    places = {key: place for place, key in enumerate(keys)}
    together = judged_together([(cell.case, cell.engine) for cell in plan.cells], plan.suite.compared())
    blocks = merged(together, {cell.case.key: cell.configuration for cell in plan.cells if cell.configuration})
    return Planned(
        keys=keys,
        blocks=tuple(tuple(places[key] for key in block) for block in blocks),
        left_out=left_out,
        needs=needs(plan),
    )


def measure(request: RunRequest, folder: Path) -> None:
    """Measure here, or continue the run in the folder."""
    from slmbench.running.runner import execute

    began = (folder / RUN_NAME).exists()
    place = {"resume": folder} if began else {"out": folder}
    execute(localized(request).model_copy(update=place), observer=TallyWriter(folder))


def localized(request: RunRequest) -> RunRequest:
    """Return the request with those of its checkpoints that are on this machine resolved here.

    Raises:
        BadInputError: it asks for what a fleet does not measure.
    """
    check_one_machine(request)
    found = tuple((name, _here(one, request.trust_remote_code)) for name, one in request.checkpoints)
    return request.model_copy(update={"checkpoints": found})


def needs(plan: Plan) -> tuple[Needed, ...]:
    """Return the artifacts that a plan's cases need, and whether this machine has them. Nothing is hashed yet."""
    found = []
    for checkpoint, spec in plan.artifacts():
        keys = tuple(c.case.key for c in plan.cells if (c.checkpoint, c.spec) == (checkpoint, spec))
        here = find_artifact(checkpoint, spec, hashes=False) is not None
        why = None if here else cannot_make(checkpoint, spec)
        state: Literal["here", "makes", "lacks"] = "here" if here else "makes" if why is None else "lacks"
        found.append(Needed(checkpoint_digest=checkpoint.digest, spec=spec, keys=keys, state=state, why=why or ""))
    return tuple(found)


def cannot_make(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this machine cannot export the artifact (one line), or None when it can."""
    if not checkpoint.is_here:
        return f"{checkpoint.name} is not on it"
    missing = missing_libraries(spec, checkpoint)
    return f"not installed: {', '.join(missing)}" if missing else refusal(checkpoint, spec)


def make(wanted: Wanted) -> None:
    """Export into this machine's store.

    Raises:
        CannotRunError: it cannot, or the exporter fails.
    """
    from slmbench.export.build import ensure_artifact

    checkpoint = _here(wanted.checkpoint, wanted.trust_remote_code)
    why = cannot_make(checkpoint, wanted.spec)
    if why is not None:
        raise CannotRunError(why)
    ensure_artifact(checkpoint, wanted.spec, progress=lambda line: print(line, flush=True))


def _here(checkpoint: Checkpoint, trust_remote_code: bool) -> Checkpoint:
    """Return the checkpoint as it is on this machine, if it is; a folder of another machine never is."""
    if checkpoint.source == "folder":
        return checkpoint
    reference = f"{checkpoint.name}@{checkpoint.revision}" if checkpoint.source == "hub" else checkpoint.name
    try:
        asked = how_resolved(checkpoint) | {"trust_remote_code": trust_remote_code}
        found = resolve(reference, offline=True, revision=None, **asked)
    except SlmbenchError:
        return checkpoint
    return found if found.digest == checkpoint.digest else checkpoint


def main(arguments: list[str]) -> int:
    """Plan, make or measure, and return the exit code."""
    follow_host()
    what, asked = arguments[0], sys.stdin.buffer.read()
    request = (Wanted if what == "make" else RunRequest).model_validate_json(asked)
    refused = forbidden(request, trusting=TRUSTING in arguments)
    if what == "plan":
        assert isinstance(request, RunRequest)
        print((Planned(left_out=(refused,)) if refused else planned(request)).model_dump_json())
        return 0
    try:
        if refused:
            raise BadInputError(refused)
        if isinstance(request, Wanted):
            make(request)
        else:
            measure(request, Path(arguments[1]))
    except SlmbenchError as error:
        print(f"{ERROR_PREFIX}{one_line(str(error))}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
