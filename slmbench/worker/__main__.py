"""``python -m slmbench.worker``: one case's process. Started by slmbench.running.worker_process, not by people.

The pipes come as stdin and stdout, the log as stderr. Before anything else is imported they are moved out of the
way: from then on everything an engine prints on fd 1 or 2 goes to the log, and it reads nothing.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmbench.worker.server import Service


def main(service: type[Service] | None = None) -> int:
    """Serve requests until the host closes the pipe; ``service`` replaces what answers them."""
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb", buffering=0) as replies:
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (pathlib is not imported yet, and starting is timed)
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        from slmbench.system.processes import die_with_host, go_first
        from slmbench.worker.server import Service, serve

        die_with_host()
        go_first()
        serve(requests, replies, (service or Service)())
    return 0


if __name__ == "__main__":
    sys.exit(main())
