"""Which machines a run is for, and that a resumed run is the one that was begun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import BadInputError, one_line
from slmbench.fleet.connection import Reached
from slmbench.fleet.record import FleetRecord
from slmbench.fleet.send_files import kept_prompts
from slmbench.plan.request import RunRequest, flag
from slmbench.plan.suite import suite_text

#: Fields of a request that say nothing of what is measured, or that no user gives.
_NOT_SAID = frozenset({"resume", "out", "offline", "checkpoints", "only_cases", "suite_text", "carried"})


@dataclass(frozen=True)
class MachineSelection:
    """Which machines are asked, by name and by a device that must be usable there; and whether equal ones share."""

    names: tuple[str, ...] = ()
    device: str | None = None
    each_machine: bool = False

    def takes(self, one: Reached) -> bool:
        """Tell whether a machine is chosen."""
        named = not self.names or one.about.name in self.names
        return named and (self.device is None or self.device in one.about.usable())

    @classmethod
    def of(cls, record: FleetRecord) -> MachineSelection:
        """Return the choice that a run was begun with."""
        return cls(record.chosen, record.device, record.each_machine)


def check_same(folder: Path, record: FleetRecord, request: RunRequest, choice: MachineSelection) -> None:
    """Refuse to go on with a run as another one than was begun. What is not said again stays as it was.

    Raises:
        BadInputError: an option says something else than it did then.
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
                f"{folder}: was begun {_shown(option, then)}, not {_shown(option, now)}; say the same or nothing, "
                "or choose another --out"
            )
    if request.prompts and kept_prompts(request.prompts) not in record.request.carried:
        raise BadInputError(f"{folder}: was begun with other texts than {request.prompts} holds; leave --prompts out")
    if request.suite and record.request.suite_text not in (None, suite_text(request.suite)[0]):
        raise BadInputError(f"{folder}: was begun with another {request.suite}; leave --suite out to go on with that")


def _shown(option: str, value: object) -> str:
    if not value:
        return f"without {option}"
    values = value if isinstance(value, list | tuple) else () if value is True else (value,)
    return one_line(f"with {option} {','.join(map(str, values))}".rstrip())
