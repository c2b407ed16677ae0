"""A run on a fleet: each machine plans, equal machines share the cases, samples arrive on this disk."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from slmbench.errors import BadInputError, CannotRunError
from slmbench.fleet.connection import Link, Reached, full_address, opened
from slmbench.fleet.coordinator import Coordinator
from slmbench.fleet.follow_part import Say
from slmbench.fleet.messages import Planned
from slmbench.fleet.record import FleetRecord, Member, check_parts, read_fleet, write_fleet_record
from slmbench.fleet.selection import MachineSelection, check_same
from slmbench.fleet.send_artifact import Supply, described
from slmbench.fleet.send_files import with_files
from slmbench.plan.request import RunRequest, check_typed
from slmbench.plan.suite import suite_text
from slmbench.records.schema import FLEET_NAME

LOCAL = "local"


@asynccontextmanager
async def linked(
    address: str, certs: Path | None, insecure: bool, *, trust_remote_code: bool = False
) -> AsyncIterator[Link]:
    """Yield a link to a fleet; ``local`` starts one on loopback while the link is open.

    ``trust_remote_code``: the local one may run a checkpoint's own code; others are asked where they are started.
    """
    if address == LOCAL:
        from slmbench.fleet.dask_nodes import local_fleet

        async with local_fleet(trust_remote_code=trust_remote_code) as own, opened(own, None) as link:
            yield link
        return
    async with opened(full_address(address, certs, insecure), certs) as link:
        yield link


async def run_on_fleet(
    link: Link, request: RunRequest, folder: Path, choice: MachineSelection, say: Say
) -> FleetRecord:
    """Measure a request on the fleet's machines into ``folder``; or continue the run in that folder.

    Raises:
        BadInputError: the request or the choice of machines is wrong.
        CannotRunError: no machine can run any case; the message says what each is missing.
    """
    reached = {one.about.name: one for one in await link.machines()}
    if request.resume:
        record = read_fleet(folder)
        check_parts(folder, record)
        check_typed(record.request, str(folder / FLEET_NAME), request)
        check_same(folder, record, request, choice)
        choice = MachineSelection.of(record)
        others = [one for name, one in reached.items() if name not in record.machines]
        supply = Supply(link, record.request, say)
    else:
        others = []
        request = await asyncio.to_thread(lambda: described(with_files(_travelling(request))))
        brought = [name for name, one in request.checkpoints if one.given]
        if brought:
            raise BadInputError(f"{brought[0]}: a fleet measures what slmbench exports; measure a file of yours here")
        supply = Supply(link, request, say)
        chosen = _chosen(reached, choice)
        members = {one.about.name: one for one in await _planned(link, request, chosen, supply)}
        _say_plans(members, say)
        record = FleetRecord(
            run_id=uuid.uuid4().hex,
            request=request,
            machines=members,
            each_machine=choice.each_machine,
            chosen=choice.names,
            device=choice.device,
        )
        if folder.exists() and any(folder.iterdir()):
            raise BadInputError(f"{folder}: is not empty; choose another --out, or --resume {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    write_fleet_record(folder, record)

    async def planned(one: Reached) -> Member | None:
        return (await _planned(link, record.request, [one], supply))[0] if choice.takes(one) else None

    await Coordinator(link, record, folder, supply, planned, say).work(reached, others)
    write_fleet_record(folder, record)
    return record


def _travelling(request: RunRequest) -> RunRequest:
    """Return the request with its suite's file inside.

    Raises:
        BadInputError: it needs files that cannot be sent, or the suite's file cannot be read.
    """
    # A path on this machine means nothing on another one.
    if request.arms:
        raise BadInputError("--arm is not supported with --fleet: it names interpreters on one machine")
    if request.suite and request.suite.endswith((".yaml", ".yml")):
        return request.model_copy(update={"suite_text": suite_text(request.suite)[0]})
    return request


def _chosen(reached: Mapping[str, Reached], choice: MachineSelection) -> list[Reached]:
    unknown = [name for name in choice.names if name not in reached]
    if unknown:
        raise BadInputError(
            f"--machines {','.join(unknown)}: not in the fleet, which has: {', '.join(reached) or 'none'}"
        )
    chosen = [one for one in reached.values() if choice.takes(one)]
    if not chosen:
        wanted = f" with a usable {choice.device}" if choice.device else ""
        raise CannotRunError(f"the fleet has no machine{wanted}; it has: {', '.join(reached) or 'none'}")
    return chosen


async def _planned(link: Link, request: RunRequest, machines: Sequence[Reached], supply: Supply) -> list[Member]:
    text = request.model_dump_json()
    await asyncio.gather(*map(supply.files, machines))
    plans = await asyncio.gather(
        *(link.call(one.address, Planned, one.about.name, op="plan", request=text) for one in machines)
    )
    members: list[Member] = []
    for one, asked in zip(machines, plans, strict=True):
        try:
            plan = await supply.possible(asked)
        except CannotRunError as error:
            raise CannotRunError(f"machine {one.about.name}: {error}") from error
        # Equal keys are kept once: hundreds of machines have thousands of them each.
        same = next((other for other in members if (other.keys, other.blocks) == (plan.keys, plan.blocks)), None)
        members.append(
            Member(
                about=one.about,
                keys=same.keys if same else plan.keys,
                blocks=same.blocks if same else plan.blocks,
                left_out=plan.left_out,
                needs=plan.needs,
                outcome=None if plan.keys else "cannot run any case",
            )
        )
    return members


def _say_plans(members: Mapping[str, Member], say: Say) -> None:
    for name, member in members.items():
        count = len(member.keys)
        say(f"{name}: can run {count} case{'' if count == 1 else 's'}")
    if not any(member.keys for member in members.values()):
        lines = [f"{name}: {line}" for name, member in members.items() for line in member.left_out]
        raise CannotRunError("\n".join(["no machine of the fleet can run any case:", *lines]))
