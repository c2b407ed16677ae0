"""Ends the import where this interpreter cannot run slmbench at all; Python 3.8 and later can read this file."""

from __future__ import annotations

import sys

_OLDEST = (3, 11)


def _refusal() -> str | None:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < _OLDEST:
        remedy = "make an environment of a newer one: python3.12 -m venv .venv"
        return f"Python 3.11 or newer is needed, {sys.executable} is {version}; {remedy}"
    if sys.maxsize < 2**32:
        return f"a 64-bit Python is needed, {sys.executable} has 32 bits; no engine is built for those"
    return None


if _reason := _refusal():
    # What Python has in place of the path while it looks for the module of `python -m`.
    if sys.argv[:1] == ["-m"]:
        sys.stderr.write(f"slmbench: error: {_reason}\n")
        raise SystemExit(5)
    raise ImportError(f"slmbench: {_reason}")
