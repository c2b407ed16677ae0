"""No library calls home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slmbench.system.telemetry import output_is_ours

#: Notes every attempt to reach a host in a file: telemetry is sent from a forked process.
LISTEN = """
import socket, sys, time
def refuse(*where, **_):
    with open(sys.argv[1], "a") as file:
        print(where, file=file)
    raise OSError("no network")
socket.getaddrinfo = socket.create_connection = refuse
"""
SILENCE = "from slmbench.system.telemetry import silence_telemetry; silence_telemetry(); silence_telemetry()\n"


def attempts(code: str, folder: Path) -> str:
    """Run the code as on a person's machine, with a new home, and return the hosts it tried to reach."""
    asked = folder / "asked"
    asked.touch()
    # Continuous integration switches OpenVINO's telemetry off by itself.
    ours = {name: value for name, value in os.environ.items() if name not in ("CI", "GITHUB_ACTIONS", "TF_BUILD")}
    environment = ours | {"HOME": str(folder), "LOCALAPPDATA": str(folder)}
    subprocess.run([sys.executable, "-c", code, str(asked)], env=environment, check=True, timeout=300)
    return asked.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("library", ["openvino", "nncf", "optimum.intel"])
def test_importing_an_exporter_asks_nobody(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library.split(".")[0])
    code = f"{LISTEN}{SILENCE}import {library}\ntime.sleep(2)"
    assert attempts(code, tmp_path) == ""
    assert not (tmp_path / "intel").exists()


@pytest.mark.slow
def test_openvino_would_call_home(tmp_path: Path) -> None:
    """The control: the listener hears it, so silence means something. If this fails, nothing is left to silence."""
    pytest.importorskip("openvino_telemetry")
    pytest.importorskip("openvino")
    assert "google-analytics" in attempts(f"{LISTEN}import openvino\ntime.sleep(3)", tmp_path)


def test_whoever_loads_a_backend_is_silent() -> None:
    """A worker imports its engine wherever the backend does: before that, once and for all."""
    code = "import sys; from slmbench.backend import load_backend; load_backend('openvino')\nimport openvino_telemetry"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr, done.stderr


def test_the_telemetry_package_cannot_be_imported_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", f"{SILENCE}import openvino_telemetry"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_what_native_code_prints_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with output_is_ours():
        print("from Python")
        os.write(1, b"from native code\n")
    print("ours", flush=True)
    os.write(1, b"and after it\n")
    captured = capfd.readouterr()
    assert captured.out == "ours\nand after it\n"
    assert "from Python\n" in captured.err
    assert "from native code\n" in captured.err
