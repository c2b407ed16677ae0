"""One part of a fleet's run: started on its machine; its samples are checked and kept until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from slmbench.errors import CannotRunError, one_line
from slmbench.fleet.connection import Link, Reached
from slmbench.fleet.messages import PartBegun, Progress
from slmbench.fleet.record import Part, write_part
from slmbench.plan.request import RunRequest
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import SAMPLES_NAME, RunRecord, parse_sample, write_run

#: Seconds between two questions to a machine: it is measuring, and each question costs it a little.
LOOK_S = 2.0
Say = Callable[[str], None]


class GoneError(CannotRunError):
    """A machine answers, and no longer has what it measured of a part."""


@dataclass(frozen=True)
class PartFollower:
    """A part on its machine. ``run`` is its name there, ``folder`` its place here.

    ``waiting`` returns the cases that no machine has yet: the machine shows their number in its status.
    """

    link: Link
    at: Reached
    run: str
    request: RunRequest
    folder: Path
    part: Part
    say: Say
    waiting: Callable[[], Sequence[str]] = tuple

    async def follow(self) -> None:
        """Let the machine measure the part, or continue it, and append what it sends until it has ended.

        Raises:
            CannotRunError: the machine is lost, its run failed, or it sent invalid data.
            GoneError: it lost what it had measured.
        """
        link, at, name = self.link, self.at, self.at.about.name
        begun = reported = False
        with SampleWriter(self.folder) as writer:
            offset = (self.folder / SAMPLES_NAME).stat().st_size
            while True:
                if not begun:
                    begun = await self._begin(offset)
                    if not begun and not reported:
                        self.say(f"{name}: is waiting for another run to end")
                        reported = True
                waiting = len(self.waiting())
                progress = await link.call(
                    at.address, Progress, name, op="read", run=self.run, offset=offset, waiting=waiting
                )
                if progress.run is not None:
                    write_run(self.folder, self._run_record(progress.run))
                offset += self._keep(writer, progress.lines)
                self._tick(progress.done)
                if begun and progress.state == "ended":
                    break
                # Another client's run, or the worker was restarted: ours has to be started again.
                begun = begun and progress.state == "running"
                if not progress.lines:
                    await asyncio.sleep(LOOK_S)
        if progress.error or progress.run is None:
            raise CannotRunError(f"machine {name}: {one_line(progress.error) or 'ended without a run record'}")
        self._tick(self.part.keys)

    async def _begin(self, have: int) -> bool:
        text, name = self.request.model_dump_json(), self.at.about.name
        answer = await self.link.call(
            self.at.address, PartBegun, name, op="begin", run=self.run, request=text, have=have
        )
        if answer.absent:
            raise GoneError(f"machine {name}: no longer has what it had measured")
        return answer.busy is None

    def _keep(self, writer: SampleWriter, text: str) -> int:
        """Append whole lines, up to the first that is not a record of the part's cases; return their size in bytes.

        Raises:
            CannotRunError: there is such a line.
        """
        good, keys = 0, frozenset(self.part.keys)
        # As bytes: text would also be split at line separators inside strings, which JSON does not have to escape.
        raw = text.encode()
        try:
            for line in raw.splitlines(keepends=True):
                self._check(line, keys)
                good += len(line)
        finally:
            if good:
                # All at once: waiting for the disk after each line would delay the samples of every machine.
                writer.append_line(raw[:good])
        return good

    def _check(self, line: bytes, keys: frozenset[str]) -> None:
        name = self.at.about.name
        try:
            record = parse_sample(line)
        except ValidationError as error:
            raise CannotRunError(
                one_line(f"machine {name}: sent an invalid sample: {error.errors()[0]['msg']}")
            ) from error
        if record.case not in keys:
            raise CannotRunError(
                one_line(f"machine {name}: sent a sample of {record.case}, which was not assigned to it")
            )

    def _tick(self, done: tuple[str, ...]) -> None:
        """Remember which cases are done.

        Raises:
            CannotRunError: they are not the part's.
        """
        known = set(self.part.done)
        if set(done) <= known:
            return
        if not set(done) <= set(self.part.keys):
            raise CannotRunError(f"machine {self.at.about.name}: reported cases that were not assigned to it")
        self.part.done = tuple(key for key in self.part.keys if key in known or key in set(done))
        write_part(self.folder, self.part)

    def _run_record(self, text: str) -> RunRecord:
        name = self.at.about.name
        try:
            run = RunRecord.model_validate_json(text)
        except ValidationError as error:
            raise CannotRunError(
                one_line(f"machine {name}: sent an invalid run record: {error.errors()[0]['msg']}")
            ) from error
        if {info.case.key for info in run.cases} != set(self.part.keys):
            raise CannotRunError(f"machine {name}: measured other cases than those assigned to it")
        return run
