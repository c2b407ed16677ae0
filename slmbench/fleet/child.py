"""How a machine starts its work as a process of its own, and why that ended."""

from __future__ import annotations

from typing import Protocol

from slmbench.errors import ERROR_PREFIX

#: Arguments of the interpreter. -P: a folder named slmbench where the worker was started is not the package.
BLOCK = ("-P", "-m", "slmbench.fleet.machine_job")


class Child(Protocol):
    """What is needed of a process that measures."""

    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""

    def terminate(self) -> None:
        """End it."""

    def wait(self) -> int:
        """Return when it has ended."""


def reason(log: bytes, code: int) -> str:
    """Return the error that a log ends with, or the exit code where it holds nothing."""
    lines = [line for line in log.decode(errors="replace").splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(ERROR_PREFIX)]
    return (marked or lines or [f"its process ended with code {code}"])[-1].removeprefix(ERROR_PREFIX)
