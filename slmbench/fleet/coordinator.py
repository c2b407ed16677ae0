"""Hands out the work of a run: each machine takes some of the cases, measures them, and takes the next ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slmbench._version import __version__
from slmbench.errors import CannotRunError, SlmbenchError, one_line
from slmbench.fleet import follow_part
from slmbench.fleet.connection import Link, Reached
from slmbench.fleet.follow_part import GoneError, PartFollower, Say
from slmbench.fleet.messages import About, PartBegun
from slmbench.fleet.record import (
    FleetRecord,
    Member,
    NotRun,
    Part,
    new_part,
    part_folders,
    read_part,
    write_fleet_record,
    write_part,
)
from slmbench.fleet.send_artifact import Supply
from slmbench.fleet.send_files import LacksError
from slmbench.fleet.work_queue import TRIES, Work
from slmbench.machine.fingerprint import differences
from slmbench.plan.request import RunRequest, requested_suite

#: Seconds between two checks for new machines.
COME_S = 5.0


@dataclass
class EqualMachines:
    """Equal machines: the same hardware and settings. The first can run all of the cases, the others some of them."""

    members: list[Member]
    blocks: list[tuple[str, ...]]
    work: Work
    names: list[str] = field(default_factory=list)
    #: Parts that are being measured.
    under_way: int = 0
    reasons: list[str] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        """Wake the machines that wait for work."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Return when the next part has ended or a machine has left."""
        await self._changed.wait()

    def fits(self, member: Member) -> bool:
        """Return whether a machine is of this kind and can take at least one block of its cases."""
        able = set(self.members[0].keys).issuperset(member.keys) and not set(self.blocks).isdisjoint(blocks_of(member))
        # Compared with each: a package that only one side has says nothing.
        return able and not any(hard_difference(one.about, member.about) for one in self.members)


def hard_difference(one: About, other: About) -> str | None:
    """Return the first difference for which `compare` would refuse two machines, or None."""
    return next((str(found) for found in differences(one.fingerprint, other.fingerprint) if found.hard), None)


def blocks_of(member: Member) -> list[tuple[str, ...]]:
    """Return the cases that a machine can run, as they are measured together."""
    return [tuple(member.keys[place] for place in block) for block in member.blocks] or [member.keys]


def kinds_of(record: FleetRecord) -> list[EqualMachines]:
    """Return the machines that can run anything, by kind. With each_machine every machine is its own kind."""
    kinds: list[EqualMachines] = []
    # The one that can run most comes first, so that its kind has all that the others can run.
    for name, member in sorted(record.machines.items(), key=lambda item: -len(item[1].keys)):
        if not member.keys:
            continue
        kind = None if record.each_machine else next((kind for kind in kinds if kind.fits(member)), None)
        if kind is None:
            blocks = blocks_of(member)
            kind = EqualMachines([], blocks, Work(blocks))
            kinds.append(kind)
        kind.members.append(member)
        kind.names.append(name)
    return kinds


class Coordinator:
    """One run's machines at work, until none of them can measure anything that is left."""

    def __init__(
        self,
        link: Link,
        record: FleetRecord,
        folder: Path,
        supply: Supply,
        planned: Callable[[Reached], Awaitable[Member | None]],
        say: Say,
    ) -> None:
        self._link, self._record, self._folder, self._supply, self._say = link, record, folder, supply, say
        #: Returns what a machine that joins later can run; None if it was not selected.
        self._planned = planned
        self._kinds = kinds_of(record)
        self._budget_s = requested_suite(record.request).budget_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._seen: set[str] = set()

    async def work(self, reached: Mapping[str, Reached], others: Sequence[Reached] = ()) -> None:
        """Measure what is left. The record then says how each machine ended and what was not run.

        ``others`` have joined since the run was planned.
        """
        self._record.not_run = ()
        self._seen = {one.address for one in reached.values()}
        self._finished_before()
        for kind in self._kinds:
            for name in kind.names:
                self._start(kind, name, reached.get(name))
        for one in others:
            await self._try(one.address)
        watcher = asyncio.create_task(self._watch())
        try:
            while running := [task for task in self._tasks.values() if not task.done()]:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watcher.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(watcher, *self._tasks.values(), return_exceptions=True)
        for task in self._tasks.values():
            task.result()
        self._record.not_run = tuple(self._not_run())

    def _finished_before(self) -> None:
        for kind in self._kinds:
            for name in kind.names:
                for path in part_folders(self._folder, name):
                    kind.work.settle(read_part(path).done)

    def _start(self, kind: EqualMachines, name: str, at: Reached | None) -> None:
        """Let a machine work: first on its own unfinished parts, if no other machine has taken their cases."""
        member = self._record.machines[name]
        if at is None:
            if member.outcome != "":
                self._leaves(kind, name, f"machine {name}: is not in the fleet any more")
            return
        old = []
        for path in part_folders(self._folder, name):
            part = read_part(path)
            if part.outcome != "" and kind.work.claim(kind.work.unfinished(part.keys, part.done)):
                old.append((path, part))
        kind.work.enter(name, member.keys)
        kind.under_way += len(old)
        self._tasks[name] = asyncio.create_task(self._serve(kind, at, old))

    def _leaves(self, kind: EqualMachines, name: str, why: str) -> None:
        self._record.machines[name].outcome = why
        kind.reasons.append(why)
        self._say(f"stopped: {why}")
        write_fleet_record(self._folder, self._record)

    def _leaves_out(self, kind: EqualMachines, name: str, why: str, keys: Collection[str]) -> None:
        kind.work.cannot(name, keys)
        kind.reasons.append(why)
        self._record.machines[name].left_out += (why,)
        self._say(f"left out: {why}")
        write_fleet_record(self._folder, self._record)

    async def _serve(self, kind: EqualMachines, at: Reached, old: list[tuple[Path, Part]]) -> None:
        """Let one machine measure until nothing is left or it is lost. Others are not affected."""
        name = at.about.name
        member = self._record.machines[name]
        try:
            if different := hard_difference(member.about, at.about):
                raise CannotRunError(f"machine {name}: has changed since the run began: {different}")
            while old:
                await self._measure(kind, at, *old.pop(0))
            while chunk := await self._next(kind, at):
                await self._measure(kind, at, *new_part(self._folder, name, chunk))
            member.outcome = ""
        except SlmbenchError as error:
            self._leaves(kind, name, one_line(str(error)))
        finally:
            for _, part in old:
                kind.under_way -= 1
                kind.work.give_back(part.keys, part.done, failed=False)
            kind.work.leave(name)
            kind.notify()

    async def _next(self, kind: EqualMachines, at: Reached) -> tuple[str, ...]:
        """Return the next cases for a machine; empty when its kind has no work left and none is under way."""
        name, reported = at.about.name, False
        while True:
            if kind.work.has_work(name):
                about = await self._link.call(at.address, About, name, op="about")
                if about.busy is None:
                    if chunk := kind.work.take(name):
                        kind.under_way += 1
                        return chunk
                    continue
                if not reported:
                    self._say(f"{name}: is waiting for another run to end")
                    reported = True
                await asyncio.sleep(follow_part.LOOK_S)
            elif kind.under_way or kind.work.has_work_for_any():
                # What another machine measures may come back.
                await kind.change()
            else:
                return ()

    async def _measure(self, kind: EqualMachines, at: Reached, path: Path, part: Part) -> None:
        name, begun = at.about.name, False
        run = f"{self._record.run_id}-{path.name}"
        part.outcome = None
        write_part(path, part)
        try:
            await self._supply.ready(at, self._record.machines[name].needs, part.keys)
            begun = True
            request = self._request(name, part.keys)
            await PartFollower(self._link, at, run, request, path, part, self._say, kind.work.waiting).follow()
            part.outcome = ""
        except LacksError as error:
            part.outcome = one_line(str(error))
            self._leaves_out(kind, name, part.outcome, error.keys)
        except SlmbenchError as error:
            part.outcome = one_line(str(error))
            if not isinstance(error, GoneError):
                raise
            kind.reasons.append(part.outcome)
            self._say(f"will be measured again: {part.outcome}")
        finally:
            kind.under_way -= 1
            if part.outcome:
                # A machine that refused before it measured is not the fault of the cases.
                kind.work.give_back(part.keys, part.done, failed=begun)
            write_part(path, part)
            kind.notify()
        if not part.outcome:
            # Everything is here.
            await self._link.call(at.address, PartBegun, name, op="forget", run=run)

    def _request(self, name: str, keys: tuple[str, ...]) -> RunRequest:
        """Return the request for some of a machine's cases, with their share of the budget."""
        update: dict[str, object] = {"resume": None, "out": None, "only_cases": keys}
        share = len(keys) / len(self._record.machines[name].keys)
        if self._budget_s is not None and share < 1:
            update["budget_s"] = self._budget_s * share
        return self._record.request.model_copy(update=update)

    async def _watch(self) -> None:
        """Let machines that join or return take work."""
        while True:
            await asyncio.sleep(COME_S)
            try:
                addresses = await self._link.addresses()
            except CannotRunError:
                continue
            self._seen &= set(addresses)
            for address in addresses:
                if address not in self._seen:
                    self._seen.add(address)
                    await self._try(address)

    async def _try(self, address: str) -> None:
        try:
            await self._come(address)
        except SlmbenchError as error:
            self._say(f"not used: {error}")

    async def _come(self, address: str) -> None:
        one = await self._link.reached(address)
        name, record = one.about.name, self._record
        if one.about.slmbench_version != __version__:
            raise CannotRunError(f"{name} has slmbench {one.about.slmbench_version}, this is {__version__}")
        if name in self._tasks and not self._tasks[name].done():
            # It was restarted before it was noticed as lost: the next check finds that out.
            self._seen.discard(address)
            return
        if name not in record.machines:
            member = await self._planned(one)
            kind = next((kind for kind in self._kinds if member and kind.fits(member)), None)
            if member is None or kind is None or record.each_machine:
                raise CannotRunError(
                    f"{name} is not part of this run: not selected, or different from every selected machine"
                )
            if name.lower() in {other.lower() for other in record.machines}:
                raise CannotRunError(f"{name} and another machine of this run differ only in upper and lower case")
            record.machines[name] = member
            kind.members.append(member)
            kind.names.append(name)
        kind = next((kind for kind in self._kinds if name in kind.names), None)
        if kind is None:
            return
        self._say(f"{name}: has joined and takes work")
        record.machines[name].outcome = None
        write_fleet_record(self._folder, record)
        self._start(kind, name, one)

    def _not_run(self) -> list[NotRun]:
        found = []
        for kind in self._kinds:
            if keys := kind.work.waiting():
                why = "; ".join(dict.fromkeys(kind.reasons)) or f"failed on {TRIES} machines"
                found.append(NotRun(machines=tuple(kind.names), keys=tuple(keys), reason=why))
        return found
