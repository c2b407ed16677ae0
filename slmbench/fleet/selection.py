"""Which machines a run is for, and whether a resumed run asks for the same as it did at first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.fleet.connection import Reached
from slmbench.fleet.record import FleetRecord
from slmbench.fleet.send_files import kept_prompts
from slmbench.plan.request import RunRequest
from slmbench.plan.suite import suite_text
from slmbench.plan.typed_again import Said, check_same_options


@dataclass(frozen=True)
class MachineSelection:
    """Which machines take part, by name and by a device they can use; and whether equal ones share the cases."""

    names: tuple[str, ...] = ()
    device: str | None = None
    each_machine: bool = False

    def takes(self, one: Reached) -> bool:
        """Return whether a machine is selected."""
        named = not self.names or one.about.name in self.names
        return named and (self.device is None or self.device in one.about.usable())

    @classmethod
    def of(cls, record: FleetRecord) -> MachineSelection:
        """Return the choice that a run was started with."""
        return cls(record.chosen, record.device, record.each_machine)


def check_same(folder: Path, record: FleetRecord, request: RunRequest, choice: MachineSelection) -> None:
    """Refuse to continue a run with other options than it was started with. Options that are left out stay.

    Raises:
        BadInputError: an option differs.
    """
    before = MachineSelection.of(record)
    said: list[Said] = []
    if choice.names:
        said.append(("--machines", sorted(choice.names), sorted(before.names)))
    if choice.device:
        said.append(("--where", f"device={choice.device}", before.device and f"device={before.device}"))
    if choice.each_machine:
        said.append(("--each-machine", True, before.each_machine))
    check_same_options(folder, request, record.request, said)
    if request.prompts and kept_prompts(request.prompts) not in record.request.carried:
        raise BadInputError(
            f"{folder}: was started with other texts than those in {request.prompts}; leave --prompts out"
        )
    if request.suite and record.request.suite_text not in (None, suite_text(request.suite)[0]):
        raise BadInputError(f"{folder}: was started with another {request.suite}; leave --suite out to continue")
