"""A run with its progress on the screen: what ``run`` and ``check`` say while they measure."""

from __future__ import annotations

import sys

from slmbench.errors import RunInterruptedError, StoppedError, one_line
from slmbench.plan.request import RunRequest
from slmbench.records.sample_arrays import RunColumns
from slmbench.running import runner
from slmbench.running.progress import show_progress


def execute_watched(
    request: RunRequest,
    *,
    quiet: bool = False,
    verbose: bool = False,
    loads: int | None = None,
    typed: bool = True,
    then: str = "",
) -> RunColumns:
    """Carry a request out as :func:`slmbench.running.runner.execute` does, and say on stderr how far it is.

    ``then`` is a command for the finished run's folder. If the run is interrupted, the message names it.

    Raises:
        StoppedError: it was interrupted; the text says what is kept, and how to continue.
    """

    def say(text: str) -> None:
        if not quiet:
            # Not by typer: that would write past the live table, into its last line.
            print(one_line(text), file=sys.stderr, flush=True)

    try:
        with show_progress(sys.stderr, verbose=verbose, quiet=quiet) as observer:
            explain = say if verbose else None
            return runner.execute(request, observer=observer, say=say, explain=explain, loads=loads, typed=typed)
    except RunInterruptedError as error:
        after = f"; then: {then} {error.folder}" if then and error.folder else ""
        raise StoppedError(f"{error}{after}") from error
