"""slmbench in Python: ``slmbench.run``, ``slmbench.read_run`` and ``slmbench.quality``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from slmbench.analysis.divergence import Divergence
from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest
from slmbench.records import schema
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.running.runner import execute, quality_alone, resumed
from slmbench.terms import PairNames

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
    pairs: Sequence[PairNames] = (),
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
    images: Sequence[int] = (),
    image_size: Sequence[tuple[int, int] | str] = (),
    image: str | Path | None = None,
    quality_text: Sequence[str | Path] = (),
    quality: bool = False,
    tasks: str | Path | None = None,
    max_new_tokens: int | None = None,
    threads: int | None = None,
    exporter: str | None = None,
    recipe: str | None = None,
    reference: str | None = None,
    mmproj: str | Path | None = None,
    attention: str | None = None,
    settings: Sequence[str] = (),
    backend_options: Sequence[tuple[str, str]] = (),
    repeat: int | None = None,
    budget_s: float | None = None,
    quick: bool = False,
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
    dequantize: bool = False,
    observer: Observer | None = None,
) -> RunResult:
    """Measure and return the result; the same as ``slmbench run``, whose ``--help`` explains each option.

    What is left out comes from the suite. ``budget_s`` is in seconds, ``interval_target`` a share (0.03 for 3 %).
    ``quick`` measures for 40 s, or until each case has a figure.
    ``observer`` is called with each event of the run.

    Raises:
        BadInputError: an option is wrong.
        CannotRunError: nothing can run here, or the disk is full.
    """
    options = {name: value for name, value in locals().items() if name != "observer"}
    request = _request(options, "slmbench.run")
    return RunResult(execute(resumed(request), observer=observer))


def quality(
    reference: str,
    artifact: str | None = None,
    text: str | Path | Sequence[str | Path] = (),
    *,
    backend: str | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    out: str | Path | None = None,
    observer: Callable[[str], None] | None = None,
) -> Divergence:
    """Return how far an artifact's predictions are from those of a checkpoint in fp32; no speed is measured.

    ``artifact`` is a file of yours; without one, ``reference`` is exported in that ``precision``. ``text`` is a file or
    several; without one, the text that comes with slmbench is read. ``out`` keeps ``quality.jsonl``; without it nothing
    is kept but what is in the cache.

    Raises:
        BadInputError: a text, a name or a combination is wrong.
        CannotRunError: nothing can run here, or the engine fails.
    """
    # What is neither is left to the request, which says what is wrong with it.
    texts = (text,) if isinstance(text, str | Path) or not isinstance(text, Sequence) else tuple(text)
    request = _request({
        "models": (artifact or reference,), "reference": reference if artifact else None, "devices": (device,),
        "backends": (backend,) if backend else (), "precisions": (precision,), "quality_text": texts,
        "quality": not texts, "input_tokens": (8,), "output_tokens": (2,),
    }, "slmbench.quality")  # fmt: skip
    with TemporaryDirectory() as temporary:
        return quality_alone(request, Path(out or temporary), observer)


def _request(options: dict[str, Any], caller: str) -> RunRequest:
    try:
        return RunRequest.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BadInputError(f"{caller}: {key}: {first['msg']}") from error
