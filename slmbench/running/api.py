"""slmbench in Python: ``slmbench.run`` and ``slmbench.read_run``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest
from slmbench.records import schema
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.running.runner import execute

if TYPE_CHECKING:
    import pandas as pd

    from slmbench.running.events import Observer


@dataclass(frozen=True)
class RunResult:
    """A run on disk; its samples are arrays, some 100 bytes each."""

    columns: RunColumns

    @property
    def run(self) -> schema.Run:
        """Return the run with every sample as a record, read from disk again: a long run's fill the memory."""
        return schema.read_run(self.folder)

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.columns.folder

    def table(self) -> pd.DataFrame:
        """Return the comparison table, one row a case, figures in SI units with their intervals."""
        from slmbench.report.run_table import run_table

        return run_table(self.columns)


def read_run(path: str | Path) -> RunResult:
    """Return what a run left: ``path`` is its folder or one of its files.

    Raises:
        BadInputError: not a run, damaged, or written by a newer slmbench.
    """
    return RunResult(read_columns(Path(path)))


def run(
    *,
    models: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    suite: str | None = None,
    scale: str | None = None,
    devices: Sequence[str] = (),
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
    input_tokens: Sequence[int] = (),
    output_tokens: Sequence[int] = (),
    batch: Sequence[int] = (),
    answers: Sequence[int] = (),
    prompts: str | Path | None = None,
    quality_text: Sequence[str | Path] = (),
    quality: bool = False,
    threads: int | None = None,
    exporter: str | None = None,
    reference: str | None = None,
    attention: str | None = None,
    backend_options: Sequence[tuple[str, str]] = (),
    repeat: int | None = None,
    budget_s: float | None = None,
    interval_target: float | None = None,
    share_loads: bool = True,
    seed: int = 0,
    arms: Sequence[tuple[str, str]] = (),
    simulate: bool = False,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    convert_pickles: bool = False,
    observer: Observer | None = None,
) -> RunResult:
    """Measure and return the result; the same as ``slmbench run``, whose ``--help`` explains each option.

    What is left out comes from the suite. ``budget_s`` is in seconds, ``interval_target`` a share (0.03 for 3 %).
    ``observer`` is called with each event of the run.

    Raises:
        BadInputError: an option is wrong.
        CannotRunError: nothing can run here, or the disk is full.
    """
    options = {name: value for name, value in locals().items() if name != "observer"}
    try:
        request = RunRequest.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BadInputError(f"slmbench.run: {key}: {first['msg']}") from error
    return RunResult(execute(request, observer=observer))
