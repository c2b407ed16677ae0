"""Which machines a run is for, and whether a resumed run asks for the same as it did at first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import BadInputError, one_line
from slmbench.fleet.connection import Reached
from slmbench.fleet.record import FleetRecord
from slmbench.fleet.send_files import kept_prompts
from slmbench.plan.request import RunRequest, flag
from slmbench.plan.suite import suite_text

#: Fields of a request that do not change what is measured, or that no user gives.
_NOT_SAID = frozenset({"resume", "out", "offline", "checkpoints", "only_cases", "suite_text", "carried"})


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
    before, plain = MachineSelection.of(record), RunRequest()
    said: list[tuple[str, object, object]] = []
    if choice.names:
        said.append(("--machines", sorted(choice.names), sorted(before.names)))
    if choice.device:
        said.append(("--where", f"device={choice.device}", before.device and f"device={before.device}"))
    if choice.each_machine:
        said.append(("--each-machine", True, before.each_machine))
    said += [
        (flag(name), now, getattr(record.request, name))
        for name in RunRequest.model_fields
        if name not in _NOT_SAID and (now := getattr(request, name)) != getattr(plain, name)
    ]
    for option, now, then in said:
        if now != then:
            raise BadInputError(
                f"{folder}: was started {_shown(option, then)}, not {_shown(option, now)}; leave it out, or choose "
                "another --out"
            )
    if request.prompts and kept_prompts(request.prompts) not in record.request.carried:
        raise BadInputError(
            f"{folder}: was started with other texts than those in {request.prompts}; leave --prompts out"
        )
    if request.suite and record.request.suite_text not in (None, suite_text(request.suite)[0]):
        raise BadInputError(f"{folder}: was started with another {request.suite}; leave --suite out to continue")


def _shown(option: str, value: object) -> str:
    if not value:
        return f"without {option}"
    values = value if isinstance(value, list | tuple) else () if value is True else (value,)
    return one_line(f"with {option} {','.join(map(str, values))}".rstrip())
