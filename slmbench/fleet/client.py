"""A run on a fleet: plan per machine, one block a machine, samples onto this disk as they are taken."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from slmbench.errors import BadInputError, CannotRunError, SlmbenchError, one_line
from slmbench.fleet.artifacts import Supply, described
from slmbench.fleet.link import Link, Reached, full_address, opened
from slmbench.fleet.messages import About, Begun, Name, Needed, Planned, Progress
from slmbench.records import (
    FLEET_NAME,
    SAMPLES_NAME,
    RunRecord,
    SampleWriter,
    parse_sample,
    read_run,
    write_run,
    write_whole,
)
from slmbench.request import RunRequest

LOCAL = "local"
#: Seconds between two looks at a machine: it is measuring, and each look costs it a little.
LOOK_S = 2.0
Say = Callable[[str], None]


class Member(BaseModel):
    """A machine of a fleet run: what it is, what it was given, how that ended."""

    model_config = ConfigDict(extra="forbid")

    about: About
    keys: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    needs: tuple[Needed, ...] = ()
    #: None while under way; empty when all went well; else why its open cases were not run.
    outcome: str | None = None


class FleetRecord(BaseModel):
    """``fleet.json``: the machines of one run. Each machine's own run lies in ``machines/NAME``."""

    model_config = ConfigDict(extra="forbid")

    run_id: Name
    request: RunRequest
    machines: dict[Name, Member]


@dataclass(frozen=True)
class Choice:
    """Which machines are asked: by name, and by a device that must be usable there."""

    names: tuple[str, ...] = ()
    device: str | None = None


def machine_folder(folder: Path, name: str) -> Path:
    """Return where a machine's part of a fleet run lies: a run like any other."""
    return folder / "machines" / name


def read_fleet(folder: Path) -> FleetRecord:
    """Read ``fleet.json``.

    Raises:
        BadInputError: it is missing or damaged.
    """
    path = folder / FLEET_NAME
    try:
        return FleetRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInputError(f"{path}: not a fleet run: {one_line(str(error).splitlines()[0])}") from error


@asynccontextmanager
async def linked(address: str, certs: Path | None, insecure: bool) -> AsyncIterator[Link]:
    """Yield a link to a fleet; ``local`` starts one on loopback for as long as the link is open."""
    if address == LOCAL:
        from slmbench.fleet.nodes import local_fleet

        async with local_fleet() as own, opened(own, None) as link:
            yield link
        return
    async with opened(full_address(address, certs, insecure), certs) as link:
        yield link


async def run_on_fleet(link: Link, request: RunRequest, folder: Path, choice: Choice, say: Say) -> FleetRecord:
    """Measure a request on the fleet's machines into ``folder``; goes on with what the folder holds if asked to.

    Raises:
        BadInputError: the request or the choice of machines is wrong.
        CannotRunError: no machine can run anything of it; what each lacks is said.
    """
    reached = {one.about.name: one for one in await link.machines()}
    if request.resume:
        record = read_fleet(folder)
        supply = Supply(link, record.request, say)
    else:
        # A path of this machine means nothing on another one; what a run needs travels by name.
        if request.prompts or request.arms:
            raise BadInputError("--prompts and --arm are files of one machine; they do not go with --fleet")
        if request.suite and request.suite.endswith((".yaml", ".yml")):
            raise BadInputError(f"--suite {request.suite}: a file of this machine; a suite's name goes with --fleet")
        request = await asyncio.to_thread(described, request)
        supply = Supply(link, request, say)
        record = await _planned(link, request, _chosen(reached, choice), supply, say)
        if folder.exists() and any(folder.iterdir()):
            raise BadInputError(f"{folder}: is not empty; choose another --out, or --resume {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder, record)
    # Each ends by itself: a machine that is lost takes no other with it.
    await asyncio.gather(
        *(
            _member(link, record, reached.get(name), name, folder, supply, say)
            for name, one in record.machines.items()
            if one.outcome != "" and one.keys
        )
    )
    return record


def _chosen(reached: Mapping[str, Reached], choice: Choice) -> list[Reached]:
    unknown = [name for name in choice.names if name not in reached]
    if unknown:
        raise BadInputError(f"--machines {','.join(unknown)}: not in the fleet. It has: {', '.join(reached) or 'none'}")
    named = [reached[name] for name in choice.names or reached]
    chosen = [one for one in named if choice.device is None or choice.device in one.about.usable()]
    if not chosen:
        wanted = f" with a usable {choice.device}" if choice.device else ""
        raise CannotRunError(f"the fleet has no machine{wanted}; it has: {', '.join(reached) or 'none'}")
    return chosen


async def _planned(
    link: Link, request: RunRequest, machines: Sequence[Reached], supply: Supply, say: Say
) -> FleetRecord:
    text = request.model_dump_json()
    plans = await asyncio.gather(
        *(link.call(one.address, Planned, one.about.name, op="plan", request=text) for one in machines)
    )
    members = {}
    for one, plan in zip(machines, plans, strict=True):
        lacking = tuple(await supply.lacking(plan))
        keys = () if lacking else plan.keys
        outcome = None if keys else "; ".join(lacking) or "runs nothing of it"
        left_out = (*plan.left_out, *lacking)
        members[one.about.name] = Member(
            about=one.about, keys=keys, left_out=left_out, needs=plan.needs, outcome=outcome
        )
    for name, member in members.items():
        say(f"{name}: {len(member.keys)} cases" + (f" ({member.outcome})" if member.outcome else ""))
    if not any(member.keys for member in members.values()):
        lines = [f"{name}: {line}" for name, member in members.items() for line in member.left_out]
        raise CannotRunError("\n".join(["no machine of the fleet can run any case:", *lines]))
    return FleetRecord(run_id=uuid.uuid4().hex, request=request, machines=members)


async def _member(
    link: Link, record: FleetRecord, at: Reached | None, name: str, folder: Path, supply: Supply, say: Say
) -> None:
    member = record.machines[name]
    try:
        if at is None:
            raise CannotRunError(f"machine {name}: is not in the fleet now")
        _same_machine(member.about, at.about)
        await supply.ready(at, member.needs, member.keys)
        await _follow(link, record, at, machine_folder(folder, name), say)
        member.outcome = ""
    except SlmbenchError as error:
        member.outcome = one_line(str(error))
        say(f"not run to its end: {member.outcome}")
    _save(folder, record)


def _same_machine(planned: About, now: About) -> None:
    from slmbench.machine.fingerprint import differences

    hard = [found for found in differences(planned.fingerprint, now.fingerprint) if found.hard]
    if hard:
        raise CannotRunError(f"machine {now.name}: is not what it was when the run began: {hard[0]}")


async def _follow(link: Link, record: FleetRecord, at: Reached, folder: Path, say: Say) -> None:
    """Have one machine measure its block, and append what it sends until it has ended."""
    name, keys = at.about.name, frozenset(record.machines[at.about.name].keys)
    text = record.request.model_copy(update={"resume": None, "out": None}).model_dump_json()
    folder.mkdir(parents=True, exist_ok=True)
    with SampleWriter(folder) as writer:
        offset = (folder / SAMPLES_NAME).stat().st_size
        begun = told = False
        while True:
            if not begun:
                answer = await link.call(at.address, Begun, name, op="begin", run=record.run_id, request=text)
                begun = answer.busy is None
                if not begun and not told:
                    say(f"{name}: waits for another run to end")
                    told = True
            progress = await link.call(at.address, Progress, name, op="read", run=record.run_id, offset=offset)
            if progress.run is not None:
                write_run(folder, _run_record(progress.run, name, keys))
            # As bytes: text would also be split at line separators inside a string, which JSON need not escape.
            for line in progress.lines.encode().splitlines(keepends=True):
                writer.append_line(_valid(line, keys, name))
                offset += len(line)
            if begun and progress.state == "ended":
                break
            # Another client's run, or one that began again since: ours is to be begun again.
            begun = begun and progress.state == "running"
            if not progress.lines:
                await asyncio.sleep(LOOK_S)
    if progress.error or progress.run is None:
        raise CannotRunError(f"machine {name}: {one_line(progress.error) or 'ended without a run record'}")
    from slmbench.report import write_reports

    # Drawing takes seconds, in which other machines' samples must not wait.
    await asyncio.to_thread(lambda: write_reports(read_run(folder)))


def _valid(line: bytes, keys: frozenset[str], name: str) -> bytes:
    """Return the line as it goes to disk.

    Raises:
        CannotRunError: it is no record of a case that this machine was given.
    """
    try:
        record = parse_sample(line)
    except ValidationError as error:
        raise CannotRunError(one_line(f"machine {name}: sent no sample: {error.errors()[0]['msg']}")) from error
    if record.case not in keys:
        raise CannotRunError(one_line(f"machine {name}: sent a sample of {record.case}, which it was not given"))
    return line


def _run_record(text: str, name: str, keys: frozenset[str]) -> RunRecord:
    try:
        run = RunRecord.model_validate_json(text)
    except ValidationError as error:
        raise CannotRunError(one_line(f"machine {name}: sent no run record: {error.errors()[0]['msg']}")) from error
    if {info.case.key for info in run.cases} != keys:
        raise CannotRunError(f"machine {name}: measured other cases than it was given")
    return run


def _save(folder: Path, record: FleetRecord) -> None:
    write_whole(folder / FLEET_NAME, record.model_dump_json(indent=1) + "\n")
