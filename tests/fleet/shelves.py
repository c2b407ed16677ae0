"""Fleets' runs that nobody measured, for tests of what is read back from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthetic import MACHINE, Made, Speed, make_run

from slmbench._version import __version__
from slmbench.fleet.messages import About
from slmbench.fleet.record import FleetRecord, Member, machine_folder
from slmbench.machine.fingerprint import Fingerprint
from slmbench.plan.request import RunRequest
from slmbench.records.schema import FLEET_NAME


def machine(cpu: str = "Example 9000", host: str = "", **hardware: Any) -> dict[str, Any]:
    """Return a fingerprint as a run keeps it."""
    made: dict[str, Any] = deepcopy(MACHINE)
    made["hardware"] |= {"cpu_model": cpu, **hardware}
    made["soft"]["host"] = host
    return made


@dataclass
class Planned:
    """A machine of a fleet to make; without speeds it sent nothing."""

    fingerprint: dict[str, Any]
    speeds: Sequence[Speed] = ()
    seed: int = 0
    keys: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    outcome: str | None = ""
    #: Runs in folders of their own behind the first one's speeds.
    more: Sequence[Sequence[Speed]] = ()
    change: Any = field(default=lambda made: None)

    def run(self, number: int, speeds: Sequence[Speed]) -> Made:
        made = make_run(speeds, seed=self.seed + 100 * number, machine=self.fingerprint)
        self.change(made)
        return made


def write_fleet(folder: Path, machines: Mapping[str, Planned]) -> Path:
    """Write a fleet's run: each machine's own run, or its runs by number."""
    members = {}
    for name, one in machines.items():
        runs = [one.speeds, *one.more] if one.speeds else []
        for number, speeds in enumerate(runs, 1):
            into = machine_folder(folder, name)
            one.run(number, speeds).write(into / str(number) if one.more else into)
        keys = one.keys or tuple(speed.case.key for speeds in runs for speed in speeds)
        about = About(
            slmbench_version=__version__,
            name=name,
            fingerprint=Fingerprint.model_validate(one.fingerprint),
            devices=(),
        )
        members[name] = Member(about=about, keys=keys, left_out=one.left_out, outcome=one.outcome)
    record = FleetRecord(run_id="f" * 8, request=RunRequest(), machines=members)
    (folder / FLEET_NAME).write_text(record.model_dump_json(), encoding="utf-8")
    return folder
