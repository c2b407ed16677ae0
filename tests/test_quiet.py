"""No library calls home."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LISTEN = """
import socket
from slmbench.quiet import silence_telemetry
silence_telemetry()
asked = []
def refuse(*where, **_):
    asked.append(where)
    raise OSError("no network")
socket.getaddrinfo = socket.create_connection = refuse
"""


@pytest.mark.slow
@pytest.mark.parametrize("library", ["openvino", "nncf", "optimum.intel"])
def test_importing_an_exporter_asks_nobody(library: str) -> None:
    """Without the call, these three look a host up (OpenVINO's telemetry) when they are imported."""
    pytest.importorskip(library.split(".")[0])
    code = f"{LISTEN}\nimport {library}\nimport time; time.sleep(1); print(len(asked))"
    # Continuous integration switches the telemetry off by itself: as a person's machine, then.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CI", "GITHUB_ACTIONS", "TF_BUILD")
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.split()[-1] == "0", done.stderr


def test_the_telemetry_package_cannot_be_imported_afterwards() -> None:
    code = "from slmbench.quiet import silence_telemetry as silence; silence(); silence(); import openvino_telemetry"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
