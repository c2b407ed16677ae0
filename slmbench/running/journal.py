"""What happens in a run, written down as it happens; and the orders that are drawn from the run's seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from slmbench.errors import CannotRunError
from slmbench.models.artifact import MANIFEST_NAME
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import FailureRecord, LoadRecord, MemoryRecord, SampleRecord
from slmbench.running import events as e
from slmbench.running.case_state import CaseState
from slmbench.running.events import Observer
from slmbench.running.worker_process import WorkerError, log_path, log_tail


class Journal:
    """The states of a run's cases, and everything that is said and kept of them."""

    def __init__(
        self,
        states: Sequence[CaseState],
        folder: Path,
        seed: int,
        observer: Observer,
        writer: SampleWriter,
        next_round: int,
    ) -> None:
        self.states = states
        self.folder = folder
        self.tell = observer
        #: The number of the next round; the caller counts on.
        self.round = next_round
        self._seed = seed
        self._writer = writer
        self._places = {state.key: place for place, state in enumerate(states)}
        self._served = by_configuration(states)

    def next_load(self, state: CaseState) -> int:
        """Return the number of the next opening of the case's configuration."""
        return max(other.next_load for other in self._served[state.planned.load_key])

    def write(self, state: CaseState, record: LoadRecord | SampleRecord | MemoryRecord | FailureRecord) -> None:
        """Keep a record of the case.

        Raises:
            CannotRunError: the disk is full, or the file is gone.
        """
        self._writer.append(record)
        state.add(record)

    def fail_load(self, states: Sequence[CaseState], load: int, failure: WorkerError) -> None:
        """Keep why a configuration could not be opened: for the cases of this wave, and for those that were done.

        The proof is the configuration's: where it fails, no figure of any of its cases stands.
        """
        others = self._served[states[0].planned.load_key] if failure.reason.voids_figures else states
        self.fail([state for state in others if state.failure is None], load, failure)

    def fail(self, states: Iterable[CaseState], load: int, failure: WorkerError) -> None:
        """Keep why the cases failed.

        Raises:
            CannotRunError: their artifact is gone: that is not the cases' doing, and the run can be taken up again.
        """
        for state in states:
            if not (state.planned.artifact / MANIFEST_NAME).exists():
                raise CannotRunError(
                    f"{state.planned.artifact}: was removed while it was measured; samples are kept, "
                    f"`slmbench run --resume {self.folder}` exports it again and continues"
                )
            record = FailureRecord(
                case=state.key,
                load=load,
                reason=failure.reason,
                message=failure.message,
                log_tail=log_tail(log_path(self.folder, state.planned.load_key)),
            )
            self.write(state, record)
            self.tell(e.CaseFailed(record))

    def drawn(self, what: str, states: Iterable[CaseState], after: CaseState | None = None) -> list[CaseState]:
        """Return the states in an order drawn from the seed, for this round and this use alone.

        Drawn from the plan's order, whatever order they come in: a permutation drawn twice from one seed would undo
        itself, and of two cases the same one would always come first. It does not begin with ``after``: a case that
        follows itself finds its weights in the caches (seen: 5 % to the first token), and each should follow another.
        """
        order = sorted(states, key=lambda state: self._places[state.key])
        random = Random(f"{self._seed}/{self.round}/{what}")
        random.shuffle(order)
        while len(order) > 1 and order[0] is after:
            random.shuffle(order)
        return order


def by_configuration(states: Iterable[CaseState]) -> dict[str, list[CaseState]]:
    """Return the states by what is opened for them, in the order of the first of each."""
    found: dict[str, list[CaseState]] = {}
    for state in states:
        found.setdefault(state.planned.load_key, []).append(state)
    return found
