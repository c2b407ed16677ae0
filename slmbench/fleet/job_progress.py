"""How far a machine is with its part of a run: a file next to the part, written between samples."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from slmbench.running import events as e
from slmbench.system.files import write_whole

SUFFIX = ".tally.json"


class Tally(BaseModel):
    """The cases of one part of a run, and which of them are done."""

    model_config = ConfigDict(extra="forbid")

    cases: tuple[str, ...] = ()
    #: Done or failed.
    done: tuple[str, ...] = ()
    #: Samples of each case.
    samples: dict[str, int] = {}


class TallyWriter:
    """An observer that keeps the tally of a run in a file next to its folder, and continues one that is there."""

    def __init__(self, run: Path) -> None:
        self._path = run.with_name(run.name + SUFFIX)
        self._tally = _read(self._path)

    def __call__(self, event: e.Event) -> None:
        """Note an event; only one that changes the tally costs a write."""
        done = self._tally.done
        if isinstance(event, e.Begun):
            self._tally.cases = event.cases
            self._tally.done = tuple(key for key in done if key in event.cases)
        elif isinstance(event, e.Judged):
            self._tally.samples[event.case] = event.samples
            self._tally.done = (*done, event.case) if event.done and event.case not in done else done
        elif isinstance(event, e.CaseFailed):
            self._tally.done = tuple(dict.fromkeys((*done, event.record.case)))
        elif isinstance(event, e.Ended):
            self._tally.done = self._tally.cases
        else:
            return
        write_whole(self._path, self._tally.model_dump_json())


def read_tallies(folder: Path) -> tuple[int, int, int]:
    """Return cases done, cases and samples of all parts of a run under the folder."""
    tallies = [_read(path) for path in folder.rglob(f"*{SUFFIX}")]
    return (
        sum(len(one.done) for one in tallies),
        sum(len(one.cases) for one in tallies),
        sum(sum(one.samples.values()) for one in tallies),
    )


def read_done(run: Path) -> tuple[str, ...]:
    """Return the cases of one part of a run that are done or failed."""
    return _read(run.with_name(run.name + SUFFIX)).done


def _read(path: Path) -> Tally:
    """Return what is there; a file that cannot be read only makes the count start again."""
    try:
        return Tally.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Tally()
