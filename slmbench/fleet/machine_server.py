"""A machine of the fleet: says what it is and what it can run, and measures one run at a time."""

from __future__ import annotations

import asyncio
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from slmbench._version import __version__
from slmbench.errors import BadInputError
from slmbench.fleet.job_progress import read_done, read_tallies
from slmbench.fleet.machine_job import JOB, TRUSTING, start_job
from slmbench.fleet.messages import CHUNK_BYTES, NAME_PATTERN, About, PartBegun, Planned, Progress
from slmbench.fleet.receive_files import Holder
from slmbench.machine.devices import DeviceRow, list_devices
from slmbench.machine.fingerprint import Fingerprint, collect
from slmbench.plan.request import RunRequest
from slmbench.records.schema import RUN_NAME, SAMPLES_NAME
from slmbench.system.paths import cache_dir
from slmbench.system.processes import Child, reason

#: Seconds after which a run that no client has fetched is deleted.
KEPT_S = 30 * 86400.0


class Machine:
    """This machine. Its answers are ``{"json": text}``; the text is a message of :mod:`slmbench.fleet.messages`."""

    def __init__(
        self,
        name: str | None = None,
        *,
        devices: tuple[DeviceRow, ...] | None = None,
        fingerprint: Fingerprint | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self._allowed = (TRUSTING,) if trust_remote_code else ()
        self.name = name or re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).strip("-._")[:64]
        if not re.match(NAME_PATTERN, self.name):
            raise BadInputError(f"--name {self.name}: not a valid name; use letters, digits, '.', '_' and '-'")
        self._devices = list_devices().rows if devices is None else devices
        self._fingerprint = fingerprint or collect()
        self._run: str | None = None
        self._waiting = 0
        self._child: Child | None = None
        self._log: IO[bytes] | None = None
        self._holder = Holder(self._measures, self._allowed)
        self._sweep()

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return what is answered, by operation."""
        return {
            "slmbench_about": self.about,
            "slmbench_plan": self.plan,
            "slmbench_begin": self.begin,
            "slmbench_read": self.read,
            "slmbench_forget": self.forget,
            **self._holder.handlers(),
        }

    def resources(self) -> dict[str, float]:
        """Return the Dask worker's resources: one of each device that a backend can use here."""
        return dict.fromkeys(self._about().usable(), 1.0)

    def about(self) -> dict[str, str]:
        """Answer with :class:`About`."""
        return {"json": self._about().model_dump_json()}

    async def plan(self, request: str) -> dict[str, str]:
        """Answer with :class:`Planned`. It may load engines to ask for devices, so another process does it."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, *JOB, "plan", *self._allowed],
            input=request.encode(),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            return {"json": Planned(left_out=(reason(done.stderr, done.returncode),)).model_dump_json()}
        return {"json": done.stdout.decode()}

    def begin(self, run: str, request: str, have: int) -> dict[str, str]:
        """Measure the request, or continue it, unless another run is under way; answers with :class:`PartBegun`.

        ``have``: bytes of its samples that the client has. If fewer are here, nothing starts: it would begin from zero.
        """
        folder = self._folder(run)
        samples = folder / "run" / SAMPLES_NAME
        if have > (samples.stat().st_size if samples.exists() else 0):
            return {"json": PartBegun(absent=True).model_dump_json()}
        busy = self._busy()
        if busy is None:
            folder.mkdir(parents=True, exist_ok=True)
            asked = RunRequest.model_validate_json(request)
            self._start(run, folder, asked.model_dump_json().encode())
        return {"json": PartBegun(busy=busy if busy != run else None).model_dump_json()}

    def read(self, run: str, offset: int, waiting: int = 0) -> dict[str, str]:
        """Answer with :class:`Progress`. ``waiting``: cases that no machine has yet, for `fleet status`."""
        folder = self._folder(run)
        if run == self._run:
            self._waiting = waiting
        # Before the lines are read: what is written after this comes with the next answer.
        running, done = self._busy() == run, read_done(folder / "run")
        lines = _lines(folder / "run" / SAMPLES_NAME, offset)
        path = folder / "run" / RUN_NAME
        record = path.read_text(encoding="utf-8") if path.exists() else None
        if running or lines:
            # The record goes before the first lines: then they can be read even if the run never ends.
            early = record if offset == 0 else None
            # Not while more is left than fits into this answer: the client does not have all of the done cases yet.
            done = done if len(lines.encode()) < CHUNK_BYTES else ()
            return {"json": Progress(state="running", lines=lines, run=early, done=done).model_dump_json()}
        if self._run != run or self._child is None:
            return {"json": Progress(state="absent").model_dump_json()}
        code = self._child.returncode
        log = folder / "log"
        error = reason(log.read_bytes() if log.exists() else b"", code) if code else ""
        return {"json": Progress(state="ended", run=record, error=error).model_dump_json()}

    def forget(self, run: str) -> dict[str, str]:
        """Delete a run that the client has completely; answers with :class:`PartBegun`. One under way stays."""
        if self._measures() != run:
            shutil.rmtree(self._folder(run), ignore_errors=True)
        return {"json": PartBegun(absent=self._measures() != run).model_dump_json()}

    def _sweep(self) -> None:
        """Delete the runs of clients that never came back."""
        own = cache_dir() / "fleet" / self.name
        for folder in own.iterdir() if own.is_dir() else ():
            newest = max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
            if time.time() - newest > KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End a measurement or an export; samples stay."""
        self._holder.close()
        self._end()

    def _end(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait()
        if self._log is not None:
            self._log.close()

    def _about(self) -> About:
        return About(
            slmbench_version=__version__,
            name=self.name,
            fingerprint=self._fingerprint,
            devices=self._devices,
            busy=self._busy(),
            progress=self._progress(),
            waiting=self._waiting if self._measures() else 0,
        )

    def metrics(self) -> dict[str, Callable[[Any], str]]:
        """Return what Dask's dashboard shows for this worker next to its own figures."""
        return {"slmbench": lambda _: self._about().doing()}

    def _progress(self) -> tuple[int, int, int] | None:
        run = self._measures()
        return None if run is None else read_tallies(self._folder(run))

    def _busy(self) -> str | None:
        return self._measures() or self._holder.making()

    def _measures(self) -> str | None:
        return self._run if self._child is not None and self._child.poll() is None else None

    def _folder(self, run: str) -> Path:
        if not re.match(NAME_PATTERN, run):
            raise BadInputError(f"'{run}' is not a valid name of a run")
        return cache_dir() / "fleet" / self.name / run

    def _start(self, run: str, folder: Path, request: bytes) -> None:
        self._end()
        self._log = (folder / "log").open("wb")
        self._child = self.spawn(folder, request)
        self._run, self._waiting = run, 0

    def spawn(self, folder: Path, request: bytes) -> Child:
        """Start measuring a request into ``folder / "run"``; simulations of a fleet replace this."""
        assert self._log is not None
        return start_job("measure", str(folder / "run"), *self._allowed, asked=request, log=self._log)


def _lines(path: Path, offset: int) -> str:
    """Return complete lines from ``offset`` bytes on: about a chunk, but at least one line if there is one."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(CHUNK_BYTES)
        if len(block) == CHUNK_BYTES:
            block += file.readline()
    return block[: block.rfind(b"\n") + 1].decode()
